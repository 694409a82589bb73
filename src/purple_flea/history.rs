//! What was bet before, in the `live` dialect: the account's bets as CSV, newest first, in which a bet is found by the
//! `client_seed` that it was made with. Being found proves a bet. Not being found proves nothing: Purple Flea has been
//! seen to take a bet and leave no row.

use super::{PurpleFlea, reply::Outcome};
use crate::{
    money::Amount,
    outside::{Limits, Outside},
};
use http::header::{ACCEPT, AUTHORIZATION};
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

/// Most that is read of a page, in bytes: 10,000 rows of about 230 are 2.3 MB.
const PAGE_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// Rows of a full page: there may be more behind it.
const PAGE_ROWS: usize = 10_000;

/// Most pages of one look-up. What is not found by then stays unknown.
const PAGES_LIMIT: usize = 20;

/// How far Purple Flea's clock may be off, in seconds: what is looked for this long before and after.
const CLOCK_SKEW_S: u64 = 300;

/// A bet that stands in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What was staked.
    pub wager: Amount,
    /// How it ended.
    pub outcome: Outcome,
}

/// Why the history could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryError {
    /// Purple Flea refuses our key or does not know our URL.
    NotAuthorized(http::StatusCode),
    /// It did not answer, or not with a history. The text is for the log.
    Unreadable(&'static str),
}

impl PurpleFlea {
    /// Every bet between two times (Unix seconds) by its `client_seed`, of those that are wanted; should one have been
    /// made more than once, all of them, the oldest first. No page is asked for after `deadline`, on the monotonic
    /// clock; what is not found by then is not found.
    pub async fn history(
        &self,
        from_s: u64,
        until_s: u64,
        wanted: &[&str],
        deadline: Duration,
        outside: &impl Outside,
    ) -> Result<HashMap<String, Vec<Found>>, HistoryError> {
        let since = iso(from_s.saturating_sub(CLOCK_SKEW_S));
        let mut until = iso(until_s.saturating_add(CLOCK_SKEW_S));
        let mut found: HashMap<String, Vec<Found>> = HashMap::new();
        for _ in 0..PAGES_LIMIT {
            if outside.monotonic() >= deadline {
                break;
            }
            let page = self.page(&since, &until, outside).await?;
            let mut oldest = None;
            for row in &page.rows {
                if wanted.contains(&row.client_seed.as_str())
                    && let Some(bet) = row.bet()
                {
                    let bets = found.entry(row.client_seed.clone()).or_default();
                    // Pages overlap.
                    if !bets.contains(&bet) {
                        bets.insert(0, bet);
                    }
                }
                oldest = Some(row.at.clone());
            }
            let next = oldest.and_then(|at| humantime::parse_rfc3339_weak(&at).ok()).map(in_iso);
            match next {
                // Times are whole seconds, so a page's last second is asked for again. One that holds a whole page
                // cannot be seen to its end: what is not found by then stays unknown.
                Some(next) if !page.last && next != until => until = next,
                _ => break,
            }
        }
        Ok(found)
    }

    async fn page(&self, since: &str, until: &str, outside: &impl Outside) -> Result<Page, HistoryError> {
        let unreadable = HistoryError::Unreadable;
        let route = format!("/api/v1/bets/export.csv?since={since}&until={until}");
        let url = self.url.join(&route).ok_or(unreadable("request_not_built"))?;
        let request = http::Request::get(url)
            .header(AUTHORIZATION, self.key.bearer())
            .header(ACCEPT, "text/csv")
            .body(Vec::new())
            .map_err(|_| unreadable("request_not_built"))?;
        let limits = Limits { timeout: self.timeout, reply_bytes: PAGE_LIMIT_BYTES };
        let answer = outside.send(request, limits).await.map_err(|_| unreadable("no_answer"))?;
        match answer.head.status.as_u16() {
            200 => Page::read(&answer.body, answer.whole).ok_or(unreadable("not_a_history")),
            401 | 403 | 404 => Err(HistoryError::NotAuthorized(answer.head.status)),
            _ => Err(unreadable("status")),
        }
    }
}

struct Page {
    rows: Vec<Row>,
    /// Whether nothing older can follow.
    last: bool,
}

struct Row {
    at: String,
    client_seed: String,
    wager: String,
    payout: String,
    won: String,
    bet_id: String,
}

impl Page {
    /// Reads a page by the names of its columns. `None` if it has not the ones that matter.
    fn read(body: &[u8], whole: bool) -> Option<Self> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(body);
        let header = reader.byte_headers().ok()?.clone();
        let column = |name: &str| header.iter().position(|field| field == name.as_bytes());
        let at = column("timestamp_utc")?;
        let [client_seed, wager, payout] = ["client_seed", "amount_usd", "amount_won_usd"].map(column);
        let [won, bet_id] = ["won", "bet_id"].map(column);
        let (client_seed, wager, payout, won, bet_id) = (client_seed?, wager?, payout?, won?, bet_id?);
        let mut rows = Vec::new();
        for record in reader.byte_records() {
            let record = record.ok()?;
            // A record that was cut off has too few fields.
            if record.len() != header.len() {
                continue;
            }
            let field =
                |index: usize| record.get(index).map(|field| String::from_utf8_lossy(field).into_owned());
            rows.push(Row {
                at: field(at)?,
                client_seed: field(client_seed)?,
                wager: field(wager)?,
                payout: field(payout)?,
                won: field(won)?,
                bet_id: field(bet_id)?,
            });
        }
        if !whole {
            // The end of the last one may be missing without showing.
            rows.pop();
        }
        let last = whole && rows.len() < PAGE_ROWS;
        Some(Self { rows, last })
    }
}

impl Row {
    /// The bet, where the row says whether it was won and what it cost.
    fn bet(&self) -> Option<Found> {
        let won = match self.won.to_ascii_lowercase().as_str() {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return None,
        };
        let payout = Amount::rounded(&self.payout).ok()?;
        let outcome = Outcome {
            won,
            payout: Some(payout),
            bet_id: super::reply::word(&self.bet_id),
            crash_point: None,
        };
        Some(Found { wager: Amount::rounded(&self.wager).ok()?, outcome })
    }
}

fn iso(unix_s: u64) -> String {
    in_iso(SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(unix_s)).unwrap_or(SystemTime::UNIX_EPOCH))
}

fn in_iso(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: &str = "bet_id,game,amount_usd,amount_won_usd,net_usd,payout_multiplier,won,server_seed_hash,client_seed,nonce,result_hash,timestamp_utc\r\n";

    #[test]
    fn a_bet_is_found_by_its_seed_whatever_stands_around_it() {
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
    fn a_page_that_was_cut_off_ends_before_its_last_row_and_is_not_the_last_one() {
        let rows = "bet_1,crash,5,7.5,2.5,1.5,true,ab,one,0,cd,2026-11-21T02:28:03Z\r\n\
                    bet_2,crash,5,7.5,2.5,1.5,true,ab,two,0,cd,2026-11-21T02:2";
        let page = Page::read(format!("{HEADER}{rows}").as_bytes(), false).unwrap();
        let seeds: Vec<&str> = page.rows.iter().map(|row| row.client_seed.as_str()).collect();
        assert_eq!((seeds, page.last), (vec!["one"], false));
    }

    #[test]
    fn what_has_not_our_columns_is_not_a_history() {
        for text in ["", "<html>", "{\"error\":\"x\"}", "bet_id,won\r\n"] {
            assert!(Page::read(text.as_bytes(), true).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[a-z\",\r\n]{0,200}") {
            let _ = Page::read(format!("{HEADER}{text}").as_bytes(), true);
        }
    }
}
