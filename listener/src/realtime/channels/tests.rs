use super::*;
use serde_json::json;

fn topics(names: &[&str]) -> BTreeSet<Topic> {
    names.iter().map(|name| Topic::new((*name).to_owned(), true, false).unwrap()).collect()
}

fn wanting(names: &[&str], now: Instant) -> Channels {
    let mut channels = Channels::default();
    assert_eq!(channels.want(&topics(names), now), (vec![], vec![]));
    channels
}

/// The events and topics of texts.
fn told(texts: &[String]) -> Vec<String> {
    let told = texts.iter().map(|text| {
        let sent: Value = serde_json::from_str(text).unwrap();
        format!("{} {}", sent["event"].as_str().unwrap(), sent["topic"].as_str().unwrap())
    });
    told.collect()
}

fn reply(text: &str, ok: bool) -> String {
    let sent: Value = serde_json::from_str(text).unwrap();
    let (status, response) =
        if ok { ("ok", json!({})) } else { ("error", json!({ "reason": "Unauthorized: no" })) };
    json!({ "event": "phx_reply", "topic": sent["topic"], "ref": sent["ref"],
        "payload": { "status": status, "response": response } })
    .to_string()
}

fn message(event: &str, topic: &str, payload: Value) -> String {
    json!({ "event": event, "topic": format!("realtime:{topic}"), "payload": payload }).to_string()
}

#[test]
fn a_channel_is_live_once_its_join_is_answered_and_not_before() {
    let now = Instant::now();
    let mut channels = wanting(&["doorbell"], now);
    let texts = channels.due("t", now, || true);
    assert_eq!(told(&texts), ["phx_join realtime:doorbell"]);
    assert_eq!(channels.live(), 0);
    assert_eq!(channels.due("t", now, || true), [""; 0], "it is asked for once");
    let other = texts[0].replace(r#""ref":"1""#, r#""ref":"99""#);
    assert_eq!(channels.take(&reply(&other, true), now), Heard::Nothing, "another one's answer");
    assert_eq!(channels.live(), 0);
    assert_eq!(channels.take(&reply(&texts[0], true), now), Heard::Joined { topic: "doorbell".to_owned() });
    assert_eq!(channels.live(), 1);
}

#[test]
fn a_forbidden_channel_waits_longer_and_longer_and_the_others_are_joined() {
    let mut now = Instant::now();
    let mut channels = wanting(&["a", "b"], now);
    let texts = channels.due("t", now, || true);
    let refused = Heard::Refused { topic: "a".to_owned(), reason: "Unauthorized: no".to_owned() };
    assert_eq!(channels.take(&reply(&texts[0], false), now), refused);
    assert!(matches!(channels.take(&reply(&texts[1], true), now), Heard::Joined { .. }));
    let mut waits = Vec::new();
    for _ in 0..7 {
        let since = now;
        let texts = loop {
            let texts = channels.due("t", now, || true);
            if !texts.is_empty() {
                break texts;
            }
            now += Duration::from_secs(1);
        };
        assert_eq!(told(&texts), ["phx_join realtime:a"]);
        waits.push((now - since).as_secs());
        channels.take(&reply(&texts[0], false), now);
    }
    assert_eq!(waits, [30, 60, 120, 240, 480, 600, 600]);
    assert_eq!(channels.live_names(), ["b"]);
}

#[test]
fn a_channel_that_is_refused_for_another_reason_is_soon_joined_again() {
    let mut now = Instant::now();
    let mut channels = wanting(&["a"], now);
    let texts = channels.due("t", now, || true);
    let refused = reply(&texts[0], false).replace("Unauthorized: no", "RealtimeRestarting: wait");
    assert!(matches!(channels.take(&refused, now), Heard::Refused { .. }));
    assert_eq!(channels.due("t", now, || true), [""; 0]);
    now += REFUSED_FIRST;
    assert_eq!(told(&channels.due("t", now, || true)), ["phx_join realtime:a"]);
}

#[test]
fn few_joins_are_under_way_at_once_and_one_without_an_answer_is_left() {
    let mut now = Instant::now();
    let names: Vec<String> = (0..150).map(|n| format!("topic-{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut channels = wanting(&names, now);
    assert_eq!(channels.due("t", now, || true).len(), JOINS_LIMIT);
    now += JOIN_TIMEOUT;
    let texts = told(&channels.due("t", now, || true));
    assert_eq!(texts.iter().filter(|text| text.starts_with("phx_leave")).count(), JOINS_LIMIT);
    assert_eq!(texts.iter().filter(|text| text.starts_with("phx_join")).count(), JOINS_LIMIT);
    let mut joined = 0;
    for _ in 0..200 {
        let texts = channels.due("t", now, || true);
        for text in texts.iter().filter(|text| text.contains("phx_join")) {
            channels.take(&reply(text, true), now);
            joined += 1;
        }
        now += Duration::from_secs(1);
    }
    assert!(joined <= CHANNELS_LIMIT && channels.live() <= CHANNELS_LIMIT, "{joined}");
}

#[test]
fn a_join_that_may_not_begin_yet_waits_for_its_turn() {
    let now = Instant::now();
    let mut channels = wanting(&["a", "b"], now);
    let mut left = 1;
    let mut pace = || {
        left -= 1;
        left >= 0
    };
    assert_eq!(told(&channels.due("t", now, &mut pace)), ["phx_join realtime:a"]);
    assert_eq!(channels.due("t", now, &mut pace), [""; 0]);
    assert_eq!(told(&channels.due("t", now, || true)), ["phx_join realtime:b"]);
}

#[test]
fn a_channel_that_the_server_closes_is_joined_again() {
    let mut now = Instant::now();
    let mut channels = wanting(&["a"], now);
    let texts = channels.due("t", now, || true);
    channels.take(&reply(&texts[0], true), now);
    let closed = message("phx_close", "a", json!({}));
    assert_eq!(channels.take(&closed, now), Heard::Lost { topic: "a".to_owned() });
    assert_eq!(channels.take(&closed, now), Heard::Nothing, "told once");
    assert_eq!(channels.due("t", now, || true), [""; 0]);
    now += CLOSED_FIRST;
    assert_eq!(told(&channels.due("t", now, || true)), ["phx_join realtime:a"]);
}

#[test]
fn a_topic_that_is_not_wanted_any_more_is_left_and_lost() {
    let now = Instant::now();
    let mut channels = wanting(&["a", "b"], now);
    for text in channels.due("t", now, || true) {
        channels.take(&reply(&text, true), now);
    }
    let (texts, lost) = channels.want(&topics(&["b", "c"]), now);
    assert_eq!(told(&texts), ["phx_leave realtime:a"]);
    assert_eq!(lost, [Heard::Lost { topic: "a".to_owned() }]);
    assert_eq!(told(&channels.due("t", now, || true)), ["phx_join realtime:c"]);
    let late = message("broadcast", "a", json!({ "event": "x", "payload": {} }));
    assert_eq!(channels.take(&late, now), Heard::Hostile);
}

#[test]
fn a_new_token_goes_to_each_live_channel() {
    let now = Instant::now();
    let mut channels = wanting(&["a", "b"], now);
    let texts = channels.due("t", now, || true);
    channels.take(&reply(&texts[0], true), now);
    let renewed = channels.renew("another");
    assert_eq!(told(&renewed), ["access_token realtime:a"]);
    assert!(renewed[0].contains("another"));
}

#[test]
fn hostile_messages_are_told_apart_and_change_nothing() {
    let now = Instant::now();
    let mut channels = wanting(&["a"], now);
    for text in channels.due("t", now, || true) {
        channels.take(&reply(&text, true), now);
    }
    for text in ["", "[]", "{", "{\"topic\":\"realtime:a\",\"event\":\"broadcast\",\"payload\":7}"] {
        assert_eq!(channels.take(text, now), Heard::Hostile, "{text}");
    }
    assert_eq!(channels.live(), 1);
}
