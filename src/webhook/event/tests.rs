use super::*;
use crate::domain::bet::{GameName, Guess, Side};
use crate::json::DETAIL_LIMIT_CHARS;
use proptest::prelude::*;

const ROW: &str = r#"{"id":42,"agent_id":"agent-001","change_type":"deposit","change_amount":100.0000,"new_balance":"100.0000","created_at":"2026-11-21T00:00:00Z"}"#;

fn row(body: &str) -> WalletChange {
    match read(body.as_bytes()) {
        Ok(Event::Inserted { row, .. }) => row,
        other => panic!("{body}: {other:?}"),
    }
}

fn refused(body: &str) -> String {
    match read(body.as_bytes()) {
        Err(ReadError::NotAnEvent(detail)) => detail,
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn the_three_shapes_of_a_row_are_read_alike() {
    let bare = row(ROW);
    assert_eq!(bare.id, Some(42));
    assert_eq!(bare.new_balance, Some("100".parse().unwrap()));
    let webhook = format!(
        r#"{{"type":"INSERT","table":"wallet_changes","schema":"public","record":{ROW},"old_record":null}}"#
    );
    let realtime = format!(
        r#"{{"data":{{"type":"INSERT","table":"wallet_changes","schema":"public","record":{ROW},"columns":[],"errors":null}},"ids":[1]}}"#
    );
    for body in [webhook, realtime, format!(r#"{{"record":{ROW}}}"#)] {
        assert_eq!(row(&body), bare);
    }
}

#[test]
fn amounts_may_be_null_or_missing() {
    let row = row(r#"{"agent_id":"a","change_type":"deposit","change_amount":null}"#);
    assert_eq!((row.id, row.change_amount, row.new_balance), (None, None, None));
}

#[test]
fn a_choice_is_read_beside_the_record_and_nowhere_else() {
    let body = format!(r#"{{"record":{ROW},"policy":{{"game":"coin-flip","side":"tails"}}}}"#);
    let Ok(Event::Inserted { choice, .. }) = read(body.as_bytes()) else { panic!() };
    assert_eq!((choice.game, choice.side), (Some(GameName::CoinFlip), Some(Side::Tails)));
    let body = format!(r#"{{"record":{ROW},"policy":{{"game":"hi-lo","guess":"lower"}}}}"#);
    let Ok(Event::Inserted { choice, .. }) = read(body.as_bytes()) else { panic!() };
    assert_eq!((choice.game, choice.guess), (Some(GameName::HiLo), Some(Guess::Lower)));
    let beside_nothing = ROW.replacen('{', r#"{"policy":{"game":"coin-flip"},"#, 1);
    assert!(refused(&beside_nothing).contains("beside `record`"));
}

#[test]
fn a_choice_never_reaches_a_limit_or_the_pause() {
    for limit in [
        r#""max_wager":1000"#,
        r#""paused":false"#,
        r#""wager_fraction":1"#,
        r#""min_balance":0"#,
        r#""min_change":0"#,
        r#""risk_factor":1"#,
    ] {
        let body = format!(r#"{{"record":{ROW},"policy":{{{limit}}}}}"#);
        assert!(refused(&body).contains("unknown field"), "{limit}");
    }
    for wrong in [
        r#""game":"hilo""#,
        r#""side":"HEADS""#,
        r#""guess":"equal""#,
        r#""cashout_at":1.00"#,
        r#""cashout_at":1.0149"#,
        r#""cashout_at":100.01"#,
        r#""cashout_at":"NaN""#,
    ] {
        refused(&format!(r#"{{"record":{ROW},"policy":{{{wrong}}}}}"#));
    }
}

#[test]
fn other_tables_and_other_events_are_left_alone() {
    for (head, skip) in [
        (r#""type":"INSERT","table":"trade_results","schema":"public""#, Unhandled::Table),
        (r#""type":"INSERT","table":"agents","schema":"auth""#, Unhandled::Table),
        (r#""type":"UPDATE","table":"agents","schema":"public""#, Unhandled::Kind),
        (r#""type":"DELETE","table":"escrow_requests","schema":"public""#, Unhandled::Kind),
        (r#""type":"INSERT","table":"wallet_changes","schema":"audit""#, Unhandled::Table),
        (r#""type":"UPDATE","table":"wallet_changes","schema":"public""#, Unhandled::Kind),
        (r#""type":"DELETE","table":"wallet_changes","schema":"public""#, Unhandled::Kind),
    ] {
        for record in [ROW, "null", r#"{"id":"agent-001"}"#] {
            let body = format!(r#"{{{head},"record":{record},"old_record":null}}"#);
            assert_eq!(read(body.as_bytes()), Ok(Event::Unhandled(skip)), "{body}");
        }
    }
}

#[test]
fn a_row_of_each_table_is_read_as_its_request() {
    let event = |kind: &str, table: &str, record: &str| {
        let body = format!(
            r#"{{"type":"{kind}","table":"{table}","schema":"public","record":{record},"old_record":null}}"#
        );
        read(body.as_bytes())
    };
    let agent = event("INSERT", "agents", r#"{"id":"agent-001","api_key":"","balance":0}"#);
    assert_eq!(agent, Ok(Event::NewAgent { agent_id: "agent-001".to_owned() }));
    let escrow = |amount: &str, receiver: &str| {
        format!(
            r#"{{"id":7,"sender_id":"a","receiver_id":"{receiver}","amount":{amount},"status":"pending"}}"#
        )
    };
    let made = event("INSERT", "escrow_requests", &escrow("10.0000", "b"));
    assert!(matches!(made, Ok(Event::NewEscrow { id: 7, .. })), "{made:?}");
    for (amount, receiver) in
        [("10", "a"), ("0", "b"), ("0.001", "b"), ("0.0999", "b"), ("1000000000000", "b"), ("-1", "b")]
    {
        assert!(
            event("INSERT", "escrow_requests", &escrow(amount, receiver)).is_err(),
            "{amount} {receiver}"
        );
    }
    let update = |status: &str, requested: &str| {
        let record = format!(
            r#"{{"id":7,"sender_id":"a","status":"{status}","requested_status":{requested},"pf_escrow_id":"esc_1"}}"#
        );
        event("UPDATE", "escrow_requests", &record)
    };
    let ending = |end| {
        let (sender_id, pf_escrow_id) = ("a".to_owned(), Some("esc_1".to_owned()));
        Ok(Event::EndEscrow { id: 7, sender_id, end, pf_escrow_id })
    };
    assert_eq!(update("pending", r#""released""#), ending(End::Release));
    assert_eq!(update("pending", r#""cancelled""#), ending(End::Cancel));
    for (status, requested) in [("pending", "null"), ("released", r#""released""#), ("pending", r#""lost""#)]
    {
        assert_eq!(update(status, requested), Ok(Event::Unhandled(Unhandled::Kind)));
    }
    assert!(
        refused(r#"{"table":"agents","record":{"id":"a"},"policy":{"game":"crash"}}"#).contains("policy")
    );
}

#[test]
fn a_ledgers_notification_is_never_read_as_a_row() {
    let body = format!(r#"{{"record":{ROW},"ledger":true}}"#);
    assert_eq!(read(body.as_bytes()), Ok(Event::Notification { reference: None }));
    assert_eq!(read(br#"{"ledger":true}"#), Ok(Event::Notification { reference: None }));
    let named = read(br#"{"ledger":true,"reference":"wallet-change-42"}"#);
    assert_eq!(named, Ok(Event::Notification { reference: Reference::parse("wallet-change-42") }));
    assert!(refused(r#"{"ledger":true,"reference":"a b"}"#).contains("reference"));
}

#[test]
fn every_wrong_shape_is_refused_with_its_wrong_part() {
    for (body, part) in [
        ("{}", "agent_id"),
        (r#"{"agent_id":"a"}"#, "change_type"),
        (r#"{"agent_id":"","change_type":"deposit"}"#, "agent_id"),
        (r#"{"agent_id":7,"change_type":"deposit"}"#, "string"),
        (r#"{"agent_id":"a\u0000","change_type":"deposit"}"#, "agent_id"),
        (r#"{"type":"INSERT","table":"wallet_changes"}"#, "record"),
        (r#"{"record":[]}"#, "JSON object"),
        (r#"{"record":[1,"a","deposit",1,100]}"#, "JSON object"),
        (r#"{"record":{"agent_id":"a","change_type":"deposit"},"policy":["crash"]}"#, "JSON object"),
        (r#"{"record":{},"data":{}}"#, "both"),
        (r#"{"agent_id":"a","agent_id":"b","change_type":"deposit"}"#, "duplicate"),
        ("[]", "JSON object"),
        (r#"[{"agent_id":"a","change_type":"deposit"}]"#, "JSON object"),
        ("null", "invalid type"),
        ("42", "invalid type"),
        ("\"deposit\"", "invalid type"),
    ] {
        let detail = refused(body);
        assert!(detail.contains(part), "{body}: {detail}");
    }
}

#[test]
fn every_wrong_number_is_refused() {
    for number in [
        "\"NaN\"",
        "1e400",
        "-5",
        "-0.0001",
        "123456789012345678901234567890",
        "0.00001",
        "true",
        "[]",
        "{}",
        "\"\"",
    ] {
        for column in ["change_amount", "new_balance"] {
            refused(&format!(r#"{{"agent_id":"a","change_type":"deposit","{column}":{number}}}"#));
        }
    }
    for id in ["0", "-1", "1.0", "1e3", "\"\"", "\"x\"", "9223372036854775808", "true"] {
        refused(&format!(r#"{{"id":{id},"agent_id":"a","change_type":"deposit"}}"#));
    }
    // A withdrawal lowers the balance. Only the amounts of a deposit must not be negative.
    row(r#"{"agent_id":"a","change_type":"withdrawal","change_amount":-5}"#);
}

#[test]
fn a_body_that_nests_too_deep_is_refused_in_every_part() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(5_000), "}".repeat(5_000));
    for deep in [nested(10_000), objects] {
        let row = ROW.replacen('{', &format!(r#"{{"note":{deep},"#), 1);
        for body in [
            deep.clone(),
            format!(r#"{{"record":{row}}}"#),
            format!(r#"{{"record":{ROW},"old_record":{deep}}}"#),
            format!(r#"{{"data":{{"record":{row}}}}}"#),
            row,
        ] {
            assert!(refused(&body).contains("nests"));
        }
    }
    // Brackets in a string do not nest, and a column of JSON may.
    let harmless = format!(r#"{{"note":"\"\\{}","json":{},"#, "[".repeat(1_000), nested(60));
    assert_eq!(row(&ROW.replacen('{', &harmless, 1)), row(ROW));
}

#[test]
fn a_body_that_is_not_json_is_refused_as_such() {
    for body in ["", "{", "{'a':1}", "{\"a\":NaN}", "\u{feff}{}", "{} {}"] {
        assert!(matches!(read(body.as_bytes()), Err(ReadError::NotJson(_))), "{body}");
    }
    // The invalid bytes are in a known column, in an unknown column, and in a part that is skipped.
    for body in [
        &b"{\"agent_id\":\"\xff\",\"change_type\":\"deposit\"}"[..],
        b"{\"agent_id\":\"a\",\"change_type\":\"deposit\",\"note\":\"\xff\"}",
        b"{\"record\":{\"agent_id\":\"a\",\"change_type\":\"deposit\"},\"old_record\":\"\xff\"}",
    ] {
        assert!(matches!(read(body), Err(ReadError::NotJson(_))));
    }
    let long = format!(r#"{{"agent_id":"a","change_type":"deposit","id":"{}"}}"#, "x".repeat(60_000));
    assert!(refused(&long).len() <= 4 * DETAIL_LIMIT_CHARS);
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused_and_never_panic(body in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read(&body);
    }

    #[test]
    fn almost_events_are_read_or_refused_and_never_panic(cut in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let whole = format!(r#"{{"type":"INSERT","table":"wallet_changes","record":{ROW},"policy":{{"cashout_at":1.5}}}}"#);
        let mut body = whole.into_bytes();
        let at = cut.index(body.len());
        body[at] = byte;
        let _ = read(&body);
        body.truncate(at);
        prop_assert!(read(&body).is_err());
    }
}
