use serde_json::{Value, json};

use super::{AtLine, Stream};

/// The objects of a text, as kubectl has them.
fn read(text: &str) -> Result<Vec<Value>, AtLine> {
    let stream = Stream::read(text)?;
    let objects = stream
        .documents
        .iter()
        .flat_map(|document| document.objects());
    Ok(objects.cloned().collect())
}

/// The first document with its only object as `change` makes it.
fn change(text: &str, change: impl FnOnce(&mut Value)) -> Result<String, AtLine> {
    let stream = Stream::read(text)?;
    let document = &stream.documents[0];
    let mut after = document.objects().next().expect("an object").clone();
    change(&mut after);
    let changed = document.change(&[Some(after)], None);
    match changed.refused.into_iter().next() {
        Some((_, why)) => Err(why),
        None => Ok(stream.with(&[Some(changed.text)])),
    }
}

#[test]
fn documents_are_split_as_in_kubectl() {
    for (text, objects) in [
        ("", json!([])),
        ("# only a comment\n---\n---\n", json!([])),
        (
            "a: 1\n---\nb: 2\n--- # c\nc: 3",
            json!([{"a": 1}, {"b": 2}, {"c": 3}]),
        ),
        ("\u{feff}a: 1\n", json!([{"a": 1}])),
        (
            "\u{feff}{\"a\": 1}{\"b\": 2}\n",
            json!([{"a": 1}, {"b": 2}]),
        ),
        (
            "a: 1\r\n---\r\nb: |\r\n  x\r\n  --- y\r\n",
            json!([{"a": 1}, {"b": "x\n--- y\n"}]),
        ),
        ("{\"a\": 1}\n---\nb: yes\n", json!([{"a": 1}, {"b": true}])),
        ("{a: 1}\n", json!([{"a": 1}])),
        ("a: 1\n...\nb: 2\n", json!([{"a": 1}])),
        ("a: |\n  x", json!([{"a": "x\n"}])),
        ("{\"a\": \"\\ud83d\\ude00\"}", json!([{"a": "😀"}])),
    ] {
        let objects: Vec<Value> = serde_json::from_value(objects).expect("a list");
        assert_eq!(read(text), Ok(objects), "{text:?}");
    }
}

#[test]
fn text_that_kubectl_ignores_is_reported() {
    for (text, line) in [("a: 1\n...\nb: 2\n", 3), ("{a: 1}\n{b: 1}\n", 2)] {
        let stream = Stream::read(text).expect("YAML");
        let unread = stream.documents[0].unread().map(|unread| unread.line);
        assert_eq!(unread, Some(line), "{text}");
    }
}

#[test]
fn text_that_kubectl_refuses_is_reported_with_its_line() {
    for (text, line, why) in [
        ("a: 1\n--- b\n", 2, "only a comment behind ---"),
        ("%YAML 1.1\n---\na: 1\n", 2, "document start"),
        ("a: 1\n---\nb: [\n", 4, "flow"),
        ("a: 1\nb: *c\n", 2, "no anchor &c"),
        ("a: &a\n  b: *a\n", 2, "contains itself"),
        ("a: 1\nb: !!int x\n", 2, "no !!int"),
        ("a: 1\n[1]: 2\n", 2, "no key"),
        ("{\"a\": 1}{\"b\": 2}\n{\"c\": }", 2, "no JSON value"),
        ("a: \u{1}\n", 1, "control characters"),
        ("a: 1\n\tb: 2\n", 2, ""),
        ("# 日本語\na: \"é😀\"\nb: *ü\n", 3, ""),
        ("# 日本語\na: é😀\nb: *c\nd: 1\n", 3, "no anchor &c"),
        ("a: |\n  日本語\n  日本語\nb: [\nc: 1\n", 6, ""),
    ] {
        let wrong = read(text).expect_err(text);
        assert_eq!(wrong.line, line, "{text:?}: {wrong}");
        assert!(wrong.why.contains(why), "{text:?}: {wrong}");
    }
}

#[test]
fn aliases_and_merges_apply_in_order() {
    let text =
        "b: &b {x: 1, z: 1}\nc: {<<: *b, x: 2}\nd: {x: 2, <<: *b}\ne: {<<: [{x: 3}, *b]}\nf: *b\n";
    let read = read(text).expect("YAML");
    let b = json!({"x": 1, "z": 1});
    assert_eq!(
        read[0],
        json!({"b": b, "c": {"x": 2, "z": 1}, "d": b, "e": {"x": 3, "z": 1}, "f": b})
    );
}

#[test]
fn unknown_tags_do_not_matter() {
    let text = "a: !vault |\n  x\nb: !Ref {c: !!str 1}\nd: ! yes\n";
    let value = json!({"a": "x\n", "b": {"c": "1"}, "d": "yes"});
    assert_eq!(read(text), Ok(vec![value]));
}

#[test]
fn multiplying_aliases_are_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..9 {
        let last = format!("*a{}, ", n - 1).repeat(10);
        text += &format!("a{n}: &a{n} [{last}]\n");
    }
    let wrong = read(&text).expect_err("too much");
    assert!(wrong.why.contains("mostly aliases"), "{wrong}");
}

/// Each text, and the result where `v` is appended to `volumes`.
#[test]
fn appended_item_follows_the_last_item() {
    let cases = [
        ("volumes:\n- a\n", "volumes:\n- a\n- v\n"),
        ("volumes:\n- a", "volumes:\n- a\n- v"),
        (
            "volumes:\r\n  - a # b\r\n",
            "volumes:\r\n  - a # b\r\n  - v\r\n",
        ),
        (
            "volumes:\n- a\n# of x\nx: 1\n",
            "volumes:\n- a\n- v\n# of x\nx: 1\n",
        ),
        (
            "volumes:\n  - a\n  # - b\n# of x\nx: 1\n",
            "volumes:\n  - a\n  # - b\n  - v\n# of x\nx: 1\n",
        ),
        (
            "volumes:\n- |+\n  a\n\nx: 1\n",
            "volumes:\n- |+\n  a\n\n- v\nx: 1\n",
        ),
        ("volumes:\n- |\n  a", "volumes:\n- |\n  a\n- v"),
        ("volumes: [a, b] # c\n", "volumes: [a, b, \"v\"] # c\n"),
        ("volumes: []\n", "volumes: [\"v\"]\n"),
        (
            "volumes: [\n  a, # b\n  ]\n",
            "volumes: [\n  a,\n  \"v\", # b\n  ]\n",
        ),
        ("{\"volumes\": [1]}", "{\"volumes\": [1, \"v\"]}"),
        ("volumes:\n- a\n...\n", "volumes:\n- a\n- v\n...\n"),
        (
            "é: 日本 # ü\nvolumes:\n- ü # é\n# of x\nx: 😀\n",
            "é: 日本 # ü\nvolumes:\n- ü # é\n- v\n# of x\nx: 😀\n",
        ),
        (
            "\u{feff}é: {volumes: 日本}\nvolumes: [ü, 😀] # é\n",
            "\u{feff}é: {volumes: 日本}\nvolumes: [ü, 😀, \"v\"] # é\n",
        ),
    ];
    for (text, wanted) in cases {
        let add = |value: &mut Value| {
            value["volumes"]
                .as_array_mut()
                .expect("a list")
                .push(json!("v"));
        };
        let changed = change(text, add).unwrap_or_else(|why| panic!("{text:?}: {why}"));
        assert_eq!(changed, wanted);
        let remove =
            |value: &mut Value| drop(value["volumes"].as_array_mut().expect("a list").pop());
        assert_eq!(change(&changed, remove).as_deref(), Ok(text));
    }
}

#[test]
fn prepended_item_precedes_the_first_items_comments() {
    let cases = [
        (
            "init: # a\n  # b\n\n  # c\n  - x\n",
            "init: # a\n  # b\n\n  - v\n  # c\n  - x\n",
        ),
        ("init:\n- # c\n  x: 1\n", "init:\n- v\n- # c\n  x: 1\n"),
        ("init: [ x ]\n", "init: [ \"v\", x ]\n"),
        ("init: [x]\n", "init: [\"v\", x]\n"),
        ("init: [ # c\n x]\n", "init: [\"v\",  # c\n x]\n"),
        ("{\"init\": [\n  1\n]}", "{\"init\": [\n  \"v\",\n  1\n]}"),
    ];
    for (text, wanted) in cases {
        let add = |value: &mut Value| {
            value["init"]
                .as_array_mut()
                .expect("a list")
                .insert(0, json!("v"));
        };
        let changed = change(text, add).unwrap_or_else(|why| panic!("{text:?}: {why}"));
        assert_eq!(changed, wanted);
        let remove =
            |value: &mut Value| drop(value["init"].as_array_mut().expect("a list").remove(0));
        assert_eq!(change(&changed, remove).as_deref(), Ok(text));
    }
}

#[test]
fn added_member_follows_the_last_member() {
    let cases = [
        ("s:\n  a: 1 # b\n", "s:\n  a: 1 # b\n  k:\n    - v\n"),
        ("s:\n  a:\n", "s:\n  a:\n  k:\n    - v\n"),
        ("s: {a: 1}\n", "s: {a: 1, \"k\": [\"v\"]}\n"),
        ("s: {}\n", "s: {\"k\": [\"v\"]}\n"),
        ("s: {a: , }\n", "s: {a: , \"k\": [\"v\"], }\n"),
        ("- s:\n    a: 1", "- s:\n    a: 1\n    k:\n      - v"),
        (
            "s:\n  a: |+\n    x\n\n\nt: 1\n",
            "s:\n  a: |+\n    x\n\n\n  k:\n    - v\nt: 1\n",
        ),
        (
            "s:\n  b: &b {k: [w]}\n  <<: {a: 1}\n",
            "s:\n  b: &b {k: [w]}\n  <<: {a: 1}\n  k:\n    - v\n",
        ),
        (
            "{\n\t\"s\": {\n\t\t\"a\": 1\n\t}\n}",
            "{\n\t\"s\": {\n\t\t\"a\": 1,\n\t\t\"k\": [\n\t\t  \"v\"\n\t\t]\n\t}\n}",
        ),
    ];
    for (text, wanted) in cases {
        // A list is no object of its own.
        let text = text.replace("- s:", "l:\n- s:");
        let wanted = wanted.replace("- s:", "l:\n- s:");
        let place = |value: &mut Value| match value["l"][0].is_null() {
            true => value["s"].as_object().expect("a mapping").clone(),
            false => value["l"][0]["s"].as_object().expect("a mapping").clone(),
        };
        let put = |value: &mut Value, with: serde_json::Map<_, _>| match value["l"][0].is_null() {
            true => value["s"] = Value::Object(with),
            false => value["l"][0]["s"] = Value::Object(with),
        };
        let add = |value: &mut Value| {
            let mut members = place(value);
            members.insert("k".to_owned(), json!(["v"]));
            put(value, members);
        };
        let changed = change(&text, add).unwrap_or_else(|why| panic!("{text:?}: {why}"));
        assert_eq!(changed, wanted);
        let remove = |value: &mut Value| {
            let mut members = place(value);
            members.shift_remove("k");
            put(value, members);
        };
        assert_eq!(change(&changed, remove), Ok(text));
    }
}

/// As the API server returns them: in another order than they were written in.
#[test]
fn parts_are_removed_from_every_place_in_brackets() {
    let cases = [
        ("s: {k: 1, l: 2, a: 3}\n", "s: {a: 3}\n"),
        ("s: { k: 1, l: 2, a: 3 }\n", "s: { a: 3 }\n"),
        ("s: {k: 1, a: 3, l: 2, b: 4}\n", "s: {a: 3, b: 4}\n"),
        ("s: {a: 3, k: 1, l: 2, b: 4}\n", "s: {a: 3, b: 4}\n"),
        ("s: {l: 2, a: 3, k: 1}\n", "s: {a: 3}\n"),
        ("s: [k, l, a]\n", "s: [a]\n"),
        ("s: [ k, l, a, k, b ]\n", "s: [ a, b ]\n"),
        ("s: [k, l]\n", "s: []\n"),
        (
            "{\n \"s\": {\n  \"k\": 1,\n  \"l\": 2,\n  \"m\": 3\n }\n}\n",
            "{\n \"s\": {\n  \"m\": 3\n }\n}\n",
        ),
    ];
    let is_kept = |name: &str| name != "k" && name != "l";
    for (text, wanted) in cases {
        let remove = |value: &mut Value| match &mut value["s"] {
            Value::Object(members) => members.retain(|key, _| is_kept(key)),
            Value::Array(items) => items.retain(|item| item.as_str().is_some_and(is_kept)),
            other => panic!("{other}"),
        };
        assert_eq!(change(text, remove).as_deref(), Ok(wanted), "{text:?}");
    }
}

#[test]
fn null_is_restored_in_its_own_spelling() {
    let cases = [
        ("v:\n", "v:\n  - x\n"),
        ("v: # c\nw: 1\n", "v: # c\n  - x\nw: 1\n"),
        ("v: ~ # c\n", "v: # flowcar: was ~ # c\n  - x\n"),
        ("v: null", "v: # flowcar: was null\n  - x"),
        ("v:\n  Null\n", "v:\n  # flowcar: was Null\n  - x\n"),
        ("v: !!null\n", "v: # flowcar: was !!null\n  - x\n"),
        ("{\"v\": null}", "{\"v\": [\"x\"]}"),
        (
            "{v: ~, w: 1}\n",
            "{v:  [\"x\"] # flowcar: was ~\n , w: 1}\n",
        ),
        ("{v: , w: 1}\n", "{v:  [\"x\"] # flowcar: was \n , w: 1}\n"),
    ];
    for (text, wanted) in cases {
        let changed = change(text, |value| value["v"] = json!(["x"]))
            .unwrap_or_else(|why| panic!("{text:?}: {why}"));
        assert_eq!(changed, wanted);
        let back = change(&changed, |value| value["v"] = Value::Null);
        assert_eq!(back.as_deref(), Ok(text));
    }
}

#[test]
fn impossible_edit_is_refused_with_its_line() {
    for (text, line, why) in [
        ("b: &b\n  v: [x]\nc: *b\n", 1, "also used in line 3"),
        ("b: &b\n  c: 1\nv:\n  - *b\nd: *b\n", 0, ""),
        ("? v\n: - x\n", 2, "before this list in the line"),
        ("{? v}\n", 1, "no colon"),
    ] {
        let add = |value: &mut Value| {
            let place = match value["b"]["v"].is_array() {
                true => &mut value["b"]["v"],
                false => &mut value["v"],
            };
            let mut items = place.as_array().cloned().unwrap_or_default();
            items.insert(0, json!("y"));
            *place = json!(items);
        };
        let changed = change(text, add);
        if line == 0 {
            assert!(changed.is_ok(), "{text:?}: {changed:?}");
            continue;
        }
        let refused = changed.expect_err(text);
        assert_eq!(refused.line, line, "{text:?}: {refused}");
        assert!(refused.why.contains(why), "{text:?}: {refused}");
    }
}

#[test]
fn written_strings_read_back_as_strings() {
    let text = "k: 1\n";
    let value = json!([
        "off",
        "1",
        "a b",
        "\u{7f}\u{85}\u{feff}\u{2028}",
        "é😀",
        "x\ny",
        ""
    ]);
    let changed = change(text, |object| object["v"] = value.clone()).expect("YAML");
    assert_eq!(read(&changed), Ok(vec![json!({"k": 1, "v": value})]));
    assert!(!changed.contains("- off"), "{changed}");
    let json = "{\"k\": 1}";
    let changed = change(json, |object| object["v"] = value.clone()).expect("JSON");
    let parsed: Value = serde_json::from_str(&changed).expect("JSON");
    assert_eq!(parsed["v"], value);
}

#[test]
fn string_edit_keeps_the_quotes() {
    for (text, wanted) in [
        ("a: b # c\n", "a: b,d # c\n"),
        ("a: 'b'\n", "a: 'b,d'\n"),
        ("{\"a\": \"b\"}", "{\"a\": \"b,d\"}"),
    ] {
        let changed = change(text, |value| value["a"] = json!("b,d"));
        assert_eq!(changed.as_deref(), Ok(wanted));
        let back = change(wanted, |value| value["a"] = json!("b"));
        assert_eq!(back.as_deref(), Ok(text));
    }
}
