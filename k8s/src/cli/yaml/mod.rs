//! Changing YAML text without losing its comments and its order.
//!
//! The patch library finds the places; what goes there is written by [`write::block`], because the library writes
//! long flow lists, and because no YAML 1.2 writer quotes `off`, which kubectl's YAML 1.1 reader takes for a boolean.

mod edit;
mod write;

use serde_json::Value;
use yamlpath::Document;

/// The documents of a YAML text, each with the separator line before it: joined they are the text.
pub(super) fn split(text: &str) -> Vec<&str> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let is_separator = line.trim_end() == "---" || line.starts_with("--- ");
        if is_separator && at > 0 {
            starts.push(at);
        }
        at += line.len();
    }
    starts.push(text.len());
    starts
        .windows(2)
        .map(|ends| &text[ends[0]..ends[1]])
        .collect()
}

/// A document as JSON; `Null` where it has only comments.
///
/// # Errors
/// Where it is no YAML, or has keys that are no strings.
pub(super) fn parse(document: &str) -> anyhow::Result<Value> {
    Ok(serde_yaml_ng::from_str(document)?)
}

/// The document's text with the value `after`; whether all of its comments are kept.
pub(super) fn rewrite(document: &str, before: &Value, after: &Value) -> (String, bool) {
    if before == after {
        return (document.to_owned(), true);
    }
    let (separator, body) = cut_separator(document);
    if serde_json::from_str::<Value>(body).is_ok() {
        let text = serde_json::to_string_pretty(after).expect("JSON values serialise");
        return (format!("{separator}{text}\n"), true);
    }
    let text = patched(body, before, after).unwrap_or_else(|| write::block(after));
    let kept = comments(&text).is_some_and(|kept| is_subset(comments(body), kept));
    (format!("{separator}{text}"), kept)
}

/// Only counts where it reads back as what it should be.
fn patched(body: &str, before: &Value, after: &Value) -> Option<String> {
    let document = Document::new(body.to_owned()).ok()?;
    let (mut text, values) = edit::apply(document, before, after)?;
    for (token, value) in &values {
        text = write::put(&text, token, value)?;
    }
    if !body.ends_with('\n') {
        // The library ends every text with one.
        text.truncate(text.trim_end_matches('\n').len());
    }
    (parse(&text).ok()? == *after).then_some(text)
}

/// Every comment of a text; `None` where it is no YAML.
fn comments(text: &str) -> Option<Vec<String>> {
    let document = Document::new(text.to_owned()).ok()?;
    let signs = text.match_indices('#').map(|(at, _)| at);
    let mut comments = Vec::new();
    let mut end = 0;
    for at in signs {
        if at >= end && document.offset_inside_comment(at) {
            let comment = text[at..].lines().next().unwrap_or_default();
            end = at + comment.len();
            comments.push(comment.trim_end().to_owned());
        }
    }
    Some(comments)
}

/// Whether every comment is among the kept ones, as often.
fn is_subset(comments: Option<Vec<String>>, mut kept: Vec<String>) -> bool {
    comments.into_iter().flatten().all(|comment| {
        let found = kept.iter().position(|candidate| *candidate == comment);
        found.inspect(|at| drop(kept.swap_remove(*at))).is_some()
    })
}

fn cut_separator(document: &str) -> (&str, &str) {
    if document.starts_with("---") {
        document.split_at(document.find('\n').map_or(document.len(), |end| end + 1))
    } else {
        ("", document)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{parse, rewrite, split};

    const TEXT: &str = "# the web\nkind: Pod # a pod\nspec:\n  # containers\n  containers:\n    - name: app # ours\n";

    #[test]
    fn documents_are_cut_at_their_separators_and_nowhere_else() {
        let text = "# a\n---\na: 1\n---\nb: |\n  text\n  --- no\n--- # c\nc: 1\n";
        let documents = split(text);
        assert_eq!(documents.concat(), text);
        assert_eq!(documents.len(), 4);
        assert_eq!(
            parse(documents[2]).expect("YAML"),
            json!({"b": "text\n--- no\n"})
        );
        assert_eq!(split("---\na: 1\n").len(), 1);
        assert_eq!(split("").concat(), "");
    }

    #[test]
    fn comments_and_order_stay() {
        let before = parse(TEXT).expect("YAML");
        let mut after = before.clone();
        after["spec"]["initContainers"] =
            json!([{"name": "flowcar", "env": [{"name": "X", "value": "off"}]}]);
        after["spec"]["containers"]
            .as_array_mut()
            .expect("a list")
            .push(json!({"name": "b"}));
        let (text, kept) = rewrite(TEXT, &before, &after);
        assert!(kept);
        for comment in [
            "# the web\nkind: Pod # a pod\n",
            "  # containers\n",
            "name: app # ours",
        ] {
            assert!(text.contains(comment), "{comment} in\n{text}");
        }
        assert_eq!(parse(&text).expect("YAML"), after);
        assert!(
            !text.contains("value: off"),
            "YAML 1.1 readers would take it for a boolean:\n{text}"
        );
        assert!(
            text.contains("\n  initContainers:\n    - name: flowcar\n      env:\n"),
            "as people write it:\n{text}"
        );
        let (back, kept) = rewrite(&text, &after, &before);
        assert!(kept && back.contains("name: app # ours"), "{back}");
        assert_eq!(parse(&back).expect("YAML"), before);
    }

    /// What `inject` adds to a list, and whether its way back is exact to the byte.
    #[test]
    fn an_item_before_all_others_costs_no_comment_and_its_way_back_is_exact() {
        for text in [
            "kind: Pod\nspec:\n  initContainers: # first of all\n    # waits\n\n    # for the database\n    - name: wait # long\n      image: a\n    # and then\n    - name: migrate\n  # what runs\n  containers: []\n",
            "spec:\n  initContainers:\n  - name: wait\n  # the end\n",
            "spec:\n    initContainers:\n    -   name: wait\n        # why\n        image: a",
            "---\n# doc\nspec:\n  initContainers:\n    -\n      name: wait\n    - name: b\n",
        ] {
            let before = parse(text).expect("YAML");
            let mut after = before.clone();
            after["spec"]["initContainers"]
                .as_array_mut()
                .expect("a list")
                .insert(
                    0,
                    json!({"name": "flowcar", "env": [{"name": "X", "value": "off"}]}),
                );
            let (changed, kept) = rewrite(text, &before, &after);
            assert!(kept, "{changed}");
            assert_eq!(parse(&changed).expect("YAML"), after);
            let added = changed.len() - text.len();
            assert!(added < 120, "only lines are added:\n{changed}");
            let (back, kept) = rewrite(&changed, &after, &before);
            assert_eq!(back, text);
            assert!(kept);
        }
    }

    #[test]
    fn lists_and_mappings_in_one_line_are_changed_and_the_rest_stays() {
        let text = "# a\nspec: # b\n  initContainers: [{name: a}]\n  containers: [{name: b}] # c\n  volumes: [{name: v}]\nmetadata: {name: p}\n";
        let before = parse(text).expect("YAML");
        let mut after = before.clone();
        after["spec"]["initContainers"] = json!([{"name": "flowcar"}, {"name": "a"}]);
        after["spec"]["volumes"] = json!([{"name": "v"}, {"name": "w"}]);
        after["metadata"]["annotations"] = json!({"x": "off"});
        let (changed, kept) = rewrite(text, &before, &after);
        assert!(kept, "{changed}");
        assert!(
            changed.starts_with("# a\nspec: # b\n")
                && changed.contains("  containers: [{name: b}] # c\n"),
            "{changed}"
        );
        assert_eq!(parse(&changed).expect("YAML"), after);
        let (back, kept) = rewrite(&changed, &after, &before);
        assert!(kept && parse(&back).expect("YAML") == before, "{back}");
    }

    #[test]
    fn anchors_are_resolved_and_a_lost_comment_is_said() {
        let text = "base: &base\n  containers: # ours\n    - name: a\nspec: *base\n";
        let before = parse(text).expect("YAML");
        let mut after = before.clone();
        after["spec"]["volumes"] = json!([{"name": "v"}]);
        let (changed, kept) = rewrite(text, &before, &after);
        assert_eq!(parse(&changed).expect("YAML"), after);
        assert_eq!(kept, changed.contains("# ours"), "{changed}");
        // The library panics where a value begins with a comment.
        let text = "spec:\n  # ours\n  {volumes: [],\n   a: 1}\n";
        let before = parse(text).expect("YAML");
        let mut after = before.clone();
        after["spec"]["volumes"] = json!([{"name": "v"}]);
        let (changed, kept) = rewrite(text, &before, &after);
        assert_eq!(parse(&changed).expect("YAML"), after);
        assert_eq!(kept, changed.contains("# ours"), "{changed}");
    }

    #[test]
    fn what_the_library_cannot_change_is_written_anew() {
        let text = "{kind: Pod,\n spec: {containers: [{name: a}]}}\n";
        let before = parse(text).expect("YAML");
        let mut after = before.clone();
        after["spec"]["volumes"] = json!([{"name": "v"}]);
        let (rewritten, _) = rewrite(text, &before, &after);
        assert_eq!(parse(&rewritten).expect("YAML"), after);
    }
}
