//! What kubectl refuses: it is refused with its line, changed in nothing, and keeps no other object from being injected.

use super::*;

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n";

/// A pod without the line of its kind.
fn without_kind(instead: &str) -> String {
    POD.replace("kind: Pod\n", instead)
}

#[test]
fn object_that_kubectl_refuses_is_refused_with_its_line() {
    let list = |items: &str| format!("apiVersion: v1\nkind: List\nitems: {items}\n");
    let no_kind = "this has no kind";
    let no_object = "this is no object";
    let rows = [
        (without_kind(""), 1, no_kind),
        (without_kind("kind:\n"), 1, no_kind),
        (without_kind("kind: null\n"), 1, no_kind),
        (without_kind("kind: ''\n"), 1, no_kind),
        (without_kind("kind: 5\n"), 1, no_kind),
        (without_kind("kind: [Pod]\n"), 1, no_kind),
        (without_kind("Kind: Pod\n"), 1, no_kind),
        (without_kind("# kind: Pod\n"), 1, no_kind),
        ("status: null\n".to_owned(), 1, no_kind),
        ("{}\n".to_owned(), 1, no_kind),
        ("items: []\n".to_owned(), 1, no_kind),
        (
            r#"{"apiVersion": "v1", "spec": {"containers": [{"name": "a"}]}}"#.to_owned(),
            1,
            no_kind,
        ),
        (POD.replace("v1", "1"), 1, "the apiVersion is no text"),
        ("hello\n".to_owned(), 1, no_object),
        ("5\n".to_owned(), 1, no_object),
        ("- kind: Pod\n".to_owned(), 1, no_object),
        (list("{a: b}"), 1, "the items are no list"),
        (list("[5]"), 3, no_object),
        (
            list("\n- apiVersion: v1\n  metadata: {name: p}\n  spec: {containers: [{name: a}]}"),
            4,
            no_kind,
        ),
        (list("\n- kind: Service\n- null"), 5, no_object),
    ];
    for (text, line, why) in rows {
        for (before, behind) in [("", ""), (POD, ""), ("", POD), (POD, POD)] {
            let separated = |text: &str| match text.is_empty() {
                true => String::new(),
                false => format!("---\n{text}"),
            };
            let file = format!(
                "# first\n{}---\n{}{}{}",
                separated(before),
                text,
                if text.ends_with('\n') { "" } else { "\n" },
                separated(behind)
            );
            let before_it = 2 + separated(before).matches('\n').count();
            let expected = format!("not injected: line {}: {why}", before_it + line);
            let injected = inject_text(&file, &files()).expect("YAML");
            let refused = |message: &&String| message.starts_with(&expected);
            assert_eq!(
                injected.messages.iter().filter(refused).count(),
                1,
                "{expected} of {:?} in\n{file}",
                injected.messages
            );
            assert!(!injected.is_complete, "{file}");
            let pods = usize::from(!before.is_empty()) + usize::from(!behind.is_empty());
            assert_eq!(
                injected.text.matches("FLOWCAR_POD_UID").count(),
                pods,
                "{}",
                injected.text
            );
            assert!(injected.text.contains(&text), "{}", injected.text);
            let back = uninject_text(&injected.text).expect("YAML");
            assert_eq!((back.text, back.is_complete), (file, false));
        }
    }
}

/// What kubectl reads by another spelling of its keys is edited, or refused with its line: as a whole, it is never changed silently.
#[test]
fn keys_in_every_spelling_are_edited_or_refused() {
    let rows = [
        (
            "? apiVersion\n: v1\n? kind\n: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n",
            None,
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n? spec\n: containers:\n  - name: a\n",
            None,
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  ? containers\n  : - name: a\n",
            None,
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  ? |-\n    containers\n  : - name: a\n",
            None,
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  ? hostname\n  containers:\n  - name: a\n",
            None,
        ),
        (
            "{? apiVersion : v1, ? kind : Pod, metadata: {name: p}, ? spec : {containers: [{name: a}]}}\n",
            None,
        ),
        (
            "\"apiVersion\": v1\n'kind': Pod\n\"metadata\": {name: p}\n\"spec\":\n  'containers':\n  - \"name\": a\n",
            None,
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n\"\\x73pec\":\n  \"contain\\u0065rs\":\n  - name: a\n",
            None,
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: &s spec}}\n*s :\n  containers:\n  - name: a\n",
            None,
        ),
        (
            "apiVersion: v1\nkind: !!str Pod\nmetadata: {name: p}\n&k spec:\n  containers:\n  - name: a\nstatus: ~\n",
            None,
        ),
        (
            "apiVersion: v1\nkind: Pod\n? metadata\n: ? name\n  : p\nspec:\n  ? containers\n  :\n    - ? name\n      : a\n",
            None,
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n? spec\n: ? containers\n  : - name: a\n",
            None,
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  ? annotations\n  : ? a\n    : b\nspec:\n  containers:\n  - name: a\n  ? hostname\n",
            None,
        ),
        // Refused, with this line.
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  ? initContainers\n  containers:\n  - name: a\n",
            Some(5),
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  ? initContainers\n  : - name: i\n  containers:\n  - name: a\n",
            Some(6),
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  ? # a comment\n    containers\n  : - name: a\n",
            Some(7),
        ),
    ];
    for (text, refused) in rows {
        let injected = inject_text(text, &files()).expect("YAML");
        assert_eq!(
            injected.is_complete,
            refused.is_none(),
            "{:?}",
            injected.messages
        );
        if let Some(line) = refused {
            assert_eq!(injected.text, text);
            let expected = format!("pod/p: not injected: line {line}: ");
            let message = &injected.messages[0];
            assert!(message.starts_with(&expected), "{message}");
        } else {
            let objects = objects(&injected.text).expect("YAML");
            assert_eq!(objects[0]["spec"]["initContainers"][0]["name"], "flowcar");
            assert_eq!(objects[0]["spec"]["containers"][0]["name"], "a");
        }
        assert_eq!(uninject_text(&injected.text).expect("YAML").text, text);
    }
}

/// kubectl passes over documents without content, and takes a list without items.
#[test]
fn nothing_is_no_error() {
    for text in [
        "",
        "# nothing\n",
        "---\n---\n",
        "null\n",
        "~\n",
        "apiVersion: v1\nkind: List\nitems: []\n",
        "apiVersion: v1\nkind: List\nitems: null\n",
    ] {
        let injected = inject_text(text, &files()).expect("YAML");
        assert!(injected.is_complete, "{text}: {:?}", injected.messages);
        assert_eq!(injected.text, text);
    }
}
