use std::borrow::Cow;
use std::collections::BTreeMap;

use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;

/// Values by name, as a session would have them.
#[derive(Default)]
struct Vars(BTreeMap<&'static str, Value>);

impl Names for Vars {
    fn value(&self, name: &str) -> Option<Cow<'_, Value>> {
        self.0.get(name).map(Cow::Borrowed)
    }
}

fn vars(values: &[(&'static str, Value)]) -> Vars {
    Vars(values.iter().cloned().collect())
}

fn script(value: Value) -> ProbeScript {
    serde_json::from_value(value).unwrap()
}

fn send(value: Value, vars: &Vars) -> Said {
    let send: ScriptSend = serde_json::from_value(value).unwrap();
    Payload::compile(&send, &mut std::collections::BTreeSet::new())
        .unwrap()
        .fill(vars)
}

#[test]
fn every_ready_made_dialect_compiles_and_says_the_same_as_any_script() {
    for which in Ready::ALL {
        let written: ProbeScript = serde_saphyr::from_str(which.source()).unwrap();
        if let Err(errors) = Script::compile(&written) {
            panic!("{which:?}: {errors:?}");
        }
        assert!(ready(which).is_some(), "{which:?}");
    }
}

#[rstest]
#[case(json!({"exchange": [{"expect": {"that": "text =="}}]}), "exchange[0].expect.that")]
#[case(json!({"exchange": [{"expect": {"that": "txt == 'a'"}}]}), "exchange[0].expect.that")]
#[case(json!({"exchange": [{"expect": {"that": "shout(text)"}}]}), "exchange[0].expect.that")]
#[case(json!({"exchange": [{"expect": {"that": "vars == {}"}}]}), "exchange[0].expect.that")]
#[case(json!({"exchange": [{"expect": {"that": "vars.sid == text"}}]}), "exchange[0].expect.that")]
#[case(json!({"exchange": [{"expect": {"that": "Thing{a: 1} == text"}}]}), "exchange[0].expect.that")]
#[case(json!({"exchange": [{"expect": {"that": "json.all(a, json.all(b, json.all(c, a == b)))"}}]}), "exchange[0].expect.that")]
#[case(json!({"exchange": [{"expect": {"that": "true", "save": {"token": "text"}}}]}), "exchange[0].expect.save.token")]
#[case(json!({"exchange": [{"expect": {"that": "true", "save": {"a b": "text"}}}]}), "exchange[0].expect.save.a b")]
#[case(json!({"exchange": [{"expect": {"that": "true", "within": "2m"}}]}), "exchange[0].expect.within")]
#[case(json!({"exchange": [{"send": {"text": "${sid}"}}, {"ping": {}}]}), "exchange[0].send")]
#[case(json!({"exchange": [{"send": {"text": "${sid"}}, {"ping": {}}]}), "exchange[0].send")]
#[case(json!({"exchange": [{"send": {"text": "a", "json": {}}}, {"ping": {}}]}), "exchange[0].send")]
#[case(json!({"exchange": [{"send": {"text": "a", "prefix": "b"}}, {"ping": {}}]}), "exchange[0].send")]
#[case(json!({"exchange": [{"send": {"base64": "?"}}, {"ping": {}}]}), "exchange[0].send")]
#[case(json!({"exchange": [{}]}), "exchange[0]")]
#[case(json!({"exchange": [{"send": {"text": "a"}}]}), "exchange")]
#[case(json!({"exchange": [{"ping": {}}], "state": [{"expect": {"that": "true"}}]}), "state")]
#[case(json!({"exchange": [{"ping": {}}], "answers": [{"when": "("}]}), "answers[0].when")]
#[case(json!({"exchange": [{"ping": {"within": "0s"}}]}), "exchange[0].ping.within")]
fn what_is_wrong_is_named_by_its_step(#[case] wrong: Value, #[case] step: &str) {
    let errors = Script::compile(&script(wrong)).unwrap_err();
    assert!(errors.iter().any(|e| e.step == step), "{errors:?}");
}

#[test]
fn a_deep_expression_is_refused_and_overflows_nothing() {
    let deep = format!("{}text{}", "(".repeat(400), ")".repeat(400));
    assert!(Expression::compile(&deep).is_err());
    assert!(Expression::compile(&"!".repeat(1_000)).is_err());
    assert!(Expression::compile(&"a".repeat(1_025)).is_err());
}

#[rstest]
#[case("text == 'hi'", "hi", true)]
#[case(
    "text.startsWith('40{') && parse(text.after('40')).sid == vars.sid",
    r#"40{"sid":"s1"}"#,
    true
)]
#[case("json.type == 'pong'", r#"{"type":"pong"}"#, true)]
#[case("json.type == 'pong'", "no json", false)]
#[case("json.items.exists(i, i.n == 2)", r#"{"items":[{"n":1},{"n":2}]}"#, true)]
#[case("json.n == 3 && json.f > 1.4", r#"{"n":3,"f":1.5}"#, true)]
#[case("text.contains(nonce)", "a nonce here", true)]
#[case("text.matches('^a+$')", "aaa", true)]
#[case("'id:' + nonce == text.before('\\n')", "id:nonce\nx", true)]
#[case("size(binary) == 0", "text", true)]
#[case("vars.unknown == 'a'", "x", false)]
#[case("text", "true", false)]
#[case("json.a.b.c", "{}", false)]
#[case("last(json) == 9", "[1,9]", true)]
fn expressions_hold_for_what_they_say(#[case] source: &str, #[case] text: &str, #[case] holds: bool) {
    let expression = Expression::compile(source).unwrap();
    let vars = vars(&[("sid", json!("s1"))]);
    assert_eq!(expression.holds(&mut Message::text(text), &vars, "nonce"), holds);
}

#[test]
fn a_binary_message_is_bytes() {
    let expression = Expression::compile("binary == b'\\x01\\x02' && text == ''").unwrap();
    assert!(expression.holds(&mut Message::binary(&[1, 2]), &Vars::default(), ""));
    assert!(!expression.holds(&mut Message::binary(&[1, 3]), &Vars::default(), ""));
}

#[test]
fn values_keep_their_type() {
    let message = r#"{"n": 7, "s": "x", "l": [1, {"a": null}], "f": 0.5}"#;
    for name in ["n", "s", "l", "f"] {
        let expression = Expression::compile(&format!("json.{name}")).unwrap();
        let value = expression.value(&mut Message::text(message), &Vars::default(), "");
        let whole: Value = serde_json::from_str(message).unwrap();
        assert_eq!(value.as_ref(), Some(&whole[name]));
    }
}

#[test]
fn places_are_filled_in() {
    let vars = vars(&[("nonce", json!("n1")), ("n", json!(3)), ("list", json!([1, "a"]))]);
    let text = |text: &str| match send(json!({"text": text}), &vars) {
        Said::Text(text) => text,
        Said::Binary(_) => panic!("text was asked for"),
    };
    assert_eq!(text("a ${nonce} ${n} ${list}"), r#"a n1 3 [1,"a"]"#);
    assert_eq!(text("$${nonce} costs $5"), "${nonce} costs $5");
    assert_eq!(text("a${token}b"), "ab");
    assert_eq!(text("A\nAuth: ${token}\nId: ${nonce}\n\n"), "A\nId: n1\n\n");
}

#[test]
fn json_is_written_as_json_and_leaves_out_what_is_not_there() {
    let vars = vars(&[("nonce", json!("a\"b")), ("n", json!(3))]);
    let said = send(
        json!({"prefix": "42", "json": {"a": "${nonce}", "b": "x${n}", "n": "${n}", "t": "Bearer ${token}", "l": ["${token}", 1], "o": {}}}),
        &vars,
    );
    let Said::Text(text) = said else {
        panic!("json is text")
    };
    let value: Value = serde_json::from_str(text.strip_prefix("42").unwrap()).unwrap();
    assert_eq!(
        value,
        json!({"a": "a\"b", "b": "x3", "n": 3, "l": [null, 1], "o": {}})
    );
}

#[test]
fn binary_has_text_between_its_pieces() {
    let vars = vars(&[("nonce", json!("n1"))]);
    assert_eq!(
        send(json!({"base64": "AQI=${nonce}AA=="}), &vars),
        Said::Binary(vec![1, 2, b'n', b'1', 0])
    );
}

proptest! {
    #[test]
    fn no_source_of_an_expression_panics(source in "[a-z0-9 .()\\[\\]{}'\"=!<>&|+*?:,-]{0,60}") {
        let _ = Expression::compile(&source);
    }

    #[test]
    fn no_template_panics(text in "[a$\\{\\}n \\n]{0,30}") {
        let send = ScriptSend { text: Some(text), ..ScriptSend::default() };
        if let Ok(payload) = Payload::compile(&send, &mut std::collections::BTreeSet::new()) {
            payload.fill(&Vars::default());
        }
    }

    #[test]
    fn no_message_panics(text in any::<String>(), bytes in any::<Vec<u8>>()) {
        for source in ["json.a[0].b == last(json)", "text.after('a').before('b') == text", "size(binary) > size(text)", "json.map(a, a + 1)"] {
            let expression = Expression::compile(source).unwrap();
            expression.value(&mut Message::text(&text), &Vars::default(), "n");
            expression.value(&mut Message::binary(&bytes), &Vars::default(), "n");
        }
    }
}
