//! The history of bets in the `live` dialect: CSV, newest first.
//!
//! A row holds the `client_seed` of its bet. A row proves that Purple Flea took the bet. A missing row proves
//! nothing: Purple Flea has been seen to take a bet and leave no row.

use super::{Call, PurpleFlea, reply};
use crate::{
    domain::{
        account::Account,
        amount::{self, Amount},
        bet::{self, BetOutcome, Proof},
        failure::{Doubt, Failure},
    },
    runtime::Runtime,
};
use std::{
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

/// Longest page that is read, in bytes. 10,000 rows of about 230 bytes are 2.3 MB.
const PAGE_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// The rows of a full page. Older rows may follow on the next page.
const PAGE_ROWS: usize = 10_000;

/// Most pages of one look-up: 200,000 bets within some hours.
const PAGES_LIMIT: usize = 20;

/// Greatest error of Purple Flea's clock, in seconds. A look-up searches this much earlier and later.
pub(super) const CLOCK_SKEW_S: u64 = 300;

/// The result of reading the history.
#[derive(Debug, Default)]
pub struct History {
    /// The wanted bets by their `client_seed`, oldest first. `None` stands for a row that does not say how
    /// its bet ended.
    bets: Vec<(String, Vec<Option<FoundBet>>)>,
    /// Whether the function read the history to its end. Only then is a missing bet not in the history.
    pub whole: bool,
}

/// A bet of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundBet {
    /// The wager, in US dollars.
    pub wager: Amount,
    /// The outcome.
    pub outcome: BetOutcome,
}

/// The reason why the function could not read the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryError {
    /// Purple Flea refuses our key or does not know our URL.
    NotAuthorized(http::StatusCode),
    /// Purple Flea did not answer, or the answer is not a history. The text goes to the log.
    Unreadable(&'static str),
}

impl From<Failure> for HistoryError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotAuthorized { status, .. } => Self::NotAuthorized(status),
            Failure::NoKey => Self::Unreadable("no_key"),
            Failure::NoAnswer(Some(Doubt::Unrecognised)) => Self::Unreadable("unrecognised_reply"),
            _ => Self::Unreadable("no_answer"),
        }
    }
}

impl History {
    /// Returns the rows of a wanted bet by its `client_seed`, oldest first. `None` stands for a row that does not say how
    /// its bet ended.
    pub fn bets(&self, client_seed: &str) -> Option<&[Option<FoundBet>]> {
        self.bets.iter().find(|(seed, _)| seed == client_seed).map(|(_, bets)| bets.as_slice())
    }

    /// Keeps a row of a wanted bet. Rows come newest first, and pages overlap.
    fn keep(&mut self, client_seed: &str, bet: Option<FoundBet>) {
        // A look-up asks for at most 50 bets, so a list is as fast as a map, and less code.
        match self.bets.iter_mut().find(|(seed, _)| seed == client_seed) {
            Some((_, bets)) if bets.contains(&bet) => {}
            Some((_, bets)) => bets.insert(0, bet),
            None => self.bets.push((client_seed.to_owned(), vec![bet])),
        }
    }
}

impl PurpleFlea {
    /// Returns the wanted bets of an account between two times (Unix seconds), by their `client_seed`. If a
    /// bet was made more than once, it returns all of them. After `deadline`, on the monotonic clock, it
    /// requests no further page.
    pub async fn history(
        &self,
        account: &Account,
        seconds: RangeInclusive<u64>,
        wanted: &[&str],
        deadline: Duration,
        runtime: &impl Runtime,
    ) -> Result<History, HistoryError> {
        let since = rfc3339_at(seconds.start().saturating_sub(CLOCK_SKEW_S));
        let mut until = rfc3339_at(seconds.end().saturating_add(CLOCK_SKEW_S));
        let mut history = History::default();
        for _ in 0..PAGES_LIMIT {
            let page = self.page(account, &since, &until, runtime).await?;
            for row in page.rows.iter().filter(|row| wanted.contains(&row.client_seed.as_str())) {
                history.keep(&row.client_seed, row.bet());
            }
            let oldest = page.rows.last().and_then(|row| humantime::parse_rfc3339_weak(&row.at).ok());
            history.whole = page.last;
            match oldest.map(rfc3339) {
                // Times are whole seconds, so the next page starts with the last second of this one. A second
                // with a full page of bets cannot be read to its end.
                Some(next) if !page.last && next != until && runtime.monotonic() < deadline => until = next,
                _ => break,
            }
        }
        Ok(history)
    }

    async fn page(
        &self,
        account: &Account,
        since: &str,
        until: &str,
        runtime: &impl Runtime,
    ) -> Result<Page, HistoryError> {
        let route = format!("/api/v1/bets/export.csv?since={since}&until={until}");
        let call = Call { accept: "text/csv", ..Call::get(route) };
        let answer = match self.exchange(&self.casino, account, call, PAGE_LIMIT_BYTES, runtime).await {
            Ok(answer) => answer,
            Err(Failure::NoKey) => return Err(HistoryError::Unreadable("no_key")),
            Err(_) => return Err(HistoryError::Unreadable("no_answer")),
        };
        match answer.head.status.as_u16() {
            200 => Page::read(&answer.body, answer.whole).ok_or(HistoryError::Unreadable("not_a_history")),
            401 | 403 | 404 => Err(HistoryError::NotAuthorized(answer.head.status)),
            _ => Err(HistoryError::Unreadable("status")),
        }
    }
}

struct Page {
    rows: Vec<Row>,
    /// Whether no older rows can follow.
    last: bool,
}

struct Row {
    at: String,
    client_seed: String,
    wager: String,
    payout: String,
    multiplier: Option<String>,
    won: String,
    bet_id: String,
    proof: Option<Proof>,
}

impl Page {
    /// Reads a page by the names of its columns. Returns `None` if a required column is missing.
    fn read(body: &[u8], whole: bool) -> Option<Self> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(body);
        let header = reader.byte_headers().ok()?.clone();
        let column = |name: &str| header.iter().position(|field| field == name.as_bytes());
        let at = column("timestamp_utc")?;
        let [client_seed, wager, payout] = ["client_seed", "amount_usd", "amount_won_usd"].map(column);
        let [won, bet_id] = ["won", "bet_id"].map(column);
        let (client_seed, wager, payout, won, bet_id) = (client_seed?, wager?, payout?, won?, bet_id?);
        let proof = ["server_seed_hash", "nonce", "result_hash"].map(column);
        let multiplier = column("payout_multiplier");
        let mut rows = Vec::new();
        for record in reader.byte_records() {
            let record = record.ok()?;
            // A truncated record has too few fields.
            if record.len() != header.len() {
                continue;
            }
            let field =
                |index: usize| record.get(index).map(|field| String::from_utf8_lossy(field).into_owned());
            let client_seed = field(client_seed)?;
            rows.push(Row {
                at: field(at)?,
                proof: match proof.map(|index| index.and_then(field)) {
                    [Some(hash), Some(nonce), Some(result)] => {
                        read_proof(&hash, &client_seed, &nonce, &result)
                    }
                    _ => None,
                },
                client_seed,
                wager: field(wager)?,
                payout: field(payout)?,
                multiplier: multiplier.and_then(field),
                won: field(won)?,
                bet_id: field(bet_id)?,
            });
        }
        if !whole {
            // The last record may be truncated inside its last field.
            rows.pop();
        }
        let last = whole && rows.len() < PAGE_ROWS;
        Some(Self { rows, last })
    }
}

impl Row {
    /// Returns the bet, if the row holds its result and its wager.
    fn bet(&self) -> Option<FoundBet> {
        let won = match self.won.to_ascii_lowercase().as_str() {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return None,
        };
        let (wager, reported) = (Amount::rounded(&self.wager).ok()?, Amount::rounded(&self.payout).ok()?);
        let multiplier = self.multiplier.as_ref().and_then(|text| amount::decimal(text).ok());
        let payout = if won { bet::payout(Some(reported), Some(wager), multiplier) } else { Some(reported) };
        let outcome = BetOutcome {
            won,
            payout,
            bet_id: reply::identifier(&self.bet_id),
            crash_point: None,
            balance: None,
            proof: self.proof.clone(),
        };
        Some(FoundBet { wager, outcome })
    }
}

fn read_proof(server_seed_hash: &str, client_seed: &str, nonce: &str, result_hash: &str) -> Option<Proof> {
    Some(Proof {
        server_seed_hash: reply::identifier(server_seed_hash)?,
        client_seed: reply::identifier(client_seed)?,
        nonce: nonce.parse().ok()?,
        result_hash: reply::identifier(result_hash)?,
    })
}

fn rfc3339_at(unix_s: u64) -> String {
    rfc3339(SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(unix_s)).unwrap_or(SystemTime::UNIX_EPOCH))
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::Line,
        runtime::{Answer, Limits, SendError},
    };
    use futures::FutureExt;
    use proptest::prelude::*;
    use std::cell::RefCell;

    const HEADER: &str = "bet_id,game,amount_usd,amount_won_usd,net_usd,payout_multiplier,won,server_seed_hash,client_seed,nonce,result_hash,timestamp_utc\r\n";

    #[test]
    fn a_bet_is_found_by_its_client_seed_among_any_other_rows() {
        let text = format!(
            "{HEADER}bet_1,crash,5,7.5,2.5,1.5,true,ab,\"a \"\"quoted\"\", seed\r\n\",0,cd,2026-11-21T02:28:03Z\r\n\
             bet_2,coin_flip,5,0,-5,0,false,ab,wallet-change-7-0123456789abcdef,1,cd,2026-11-21T02:28:03Z\r\n"
        );
        let page = Page::read(text.as_bytes(), true).unwrap();
        assert_eq!(page.rows[0].client_seed, "a \"quoted\", seed\r\n");
        let found = page.rows[1].bet().unwrap();
        assert_eq!((found.outcome.won, found.outcome.payout), (false, Some(Amount::ZERO)));
        assert_eq!((found.wager, page.last), ("5".parse().unwrap(), true));
    }

    #[test]
    fn a_payout_is_what_the_account_got_and_not_what_is_told_in_cents() {
        let row = "bet_1,crash,5.05,7.57,2.52,1.5,true,ab,one,0,cd,2026-11-21T02:28:03Z\r\n";
        let page = Page::read(format!("{HEADER}{row}").as_bytes(), true).unwrap();
        let payout = page.rows[0].bet().unwrap().outcome.payout;
        assert_eq!(payout, Some("7.575".parse().unwrap()));
    }

    #[test]
    fn a_truncated_page_ends_before_its_last_row_and_is_not_the_last_page() {
        let rows = "bet_1,crash,5,7.5,2.5,1.5,true,ab,one,0,cd,2026-11-21T02:28:03Z\r\n\
                    bet_2,crash,5,7.5,2.5,1.5,true,ab,two,0,cd,2026-11-21T02:2";
        let page = Page::read(format!("{HEADER}{rows}").as_bytes(), false).unwrap();
        let seeds: Vec<&str> = page.rows.iter().map(|row| row.client_seed.as_str()).collect();
        assert_eq!((seeds, page.last), (vec!["one"], false));
    }

    #[test]
    fn a_text_without_the_required_columns_is_not_a_history() {
        for text in ["", "<html>", "{\"error\":\"x\"}", "bet_id,won\r\n"] {
            assert!(Page::read(text.as_bytes(), true).is_none(), "{text}");
        }
    }

    /// Purple Flea's pages in order. Each page takes a second.
    struct Pages(RefCell<Vec<String>>, usize);

    impl Runtime for Pages {
        async fn send(&self, _: http::Request<Vec<u8>>, _: Limits) -> Result<Answer, SendError> {
            let page = self.0.borrow_mut().pop().ok_or(SendError::TimedOut)?;
            let (head, body) = http::Response::new(page.into_bytes()).into_parts();
            Ok(Answer { head, body, whole: true })
        }

        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(u64::try_from(self.1 - self.0.borrow().len()).unwrap())
        }

        async fn sleep(&self, _: Duration) {}

        fn random(&self) -> u128 {
            0
        }

        fn log(&self, _: &Line) {}
    }

    /// Reads pages that hold bets at these seconds, and looks for `bet-0` and `bet-1`.
    fn read(pages: &[&[usize]], deadline_s: u64) -> (Vec<(String, usize)>, bool) {
        let row = |second: &usize| {
            let won = if *second == 1 { "perhaps" } else { "true" };
            format!("id,crash,5,7.5,2.5,1.5,{won},ab,bet-{second},0,cd,2026-11-21T02:28:{second:02}Z\r\n")
        };
        let page =
            |rows: &&[usize]| HEADER.to_owned() + &rows.iter().map(row).collect::<String>() + &filled(rows);
        let runtime = Pages(RefCell::new(pages.iter().rev().map(page).collect()), pages.len());
        let settings = crate::config::check(|name| match name {
            "purple_flea_url" => Some("https://purple-flea.test".to_owned()),
            "purple_flea_key" => Some("key".to_owned()),
            "webhook_token" => Some("0123456789abcdef".to_owned()),
            _ => None,
        });
        let (purple_flea, account) = (settings.unwrap().purple_flea, Account::shared("agent-001"));
        let history = purple_flea.history(
            &account,
            0..=0,
            &["bet-0", "bet-1"],
            Duration::from_secs(deadline_s),
            &runtime,
        );
        let history = history.now_or_never().unwrap().unwrap();
        let mut found: Vec<_> =
            history.bets.into_iter().map(|(key, bets)| (key, bets.iter().flatten().count())).collect();
        found.sort();
        (found, history.whole)
    }

    /// Returns the rows that fill a page of two rows or more: the second row repeated.
    fn filled(rows: &[usize]) -> String {
        let Some(last) = rows.get(1) else { return String::new() };
        let row = format!("id,crash,5,5,0,1,true,ab,else,0,cd,2026-11-21T02:28:{last:02}Z\r\n");
        row.repeat(PAGE_ROWS - rows.len())
    }

    #[test]
    fn only_a_history_that_was_read_to_its_end_proves_that_a_bet_is_missing() {
        assert_eq!(read(&[&[9]], 60), (vec![], true));
        let found = ("bet-0".to_owned(), 1);
        assert_eq!(read(&[&[9, 8], &[8, 0], &[0]], 60), (vec![found.clone()], true));
        assert_eq!(read(&[&[9, 8], &[8, 0], &[0]], 2), (vec![found], false), "the time was over");
        assert_eq!(read(&[&[9, 8], &[8, 8], &[0]], 60), (vec![], false), "a second holds a whole page");
        let many: Vec<[usize; 2]> = (0..PAGES_LIMIT + 1).map(|n| [60 - n, 59 - n]).collect();
        let many: Vec<&[usize]> = many.iter().map(<[usize; 2]>::as_slice).collect();
        assert_eq!(read(&many, 60), (vec![], false), "too many pages");
        assert_eq!(read(&[&[1]], 60), (vec![("bet-1".to_owned(), 0)], true), "an unreadable row");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[a-z\",\r\n]{0,200}") {
            let _ = Page::read(format!("{HEADER}{text}").as_bytes(), true);
        }
    }
}
