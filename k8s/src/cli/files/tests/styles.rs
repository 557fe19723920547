//! Every way of writing YAML is injected, and restored byte for byte.

use super::*;

/// Every form that uninject has to undo; a line of a pod spec each.
#[test]
fn every_yaml_style_is_restored_byte_for_byte() {
    const BASE: &str = "      containers:\n      - name: a\n";
    for spec in [
        "      volumes:\n",
        "      volumes: # none\n",
        "      volumes: ~ # none\n",
        "      volumes: null",
        "      volumes: []\n",
        "      volumes: [ ] # none",
        "      \"volumes\":\t[]\t\n",
        "      initContainers: []\n      volumes:\n      - {name: v, configMap: {name: c, defaultMode: 0644}}\n# behind\n",
        "      volumes:\n      - name: v\n        configMap: {name: c, defaultMode: 0644}\n        # behind\n      # - name: w\n",
        "      volumes:\n        - name: v\n\n        # w\n\n      hostNetwork: no\n",
        "      initContainers: ~\n      volumes: !!seq\n      - name: v",
        "      initContainers: &i\n      - name: i\n        command: [sh, -c, \"x\n\n          y\"]\n",
        "      initContainers:\n      -\n        name: i\n      volumes: [{name: v}, # x\n        {name: w} # y\n      ]\n",
        "      initContainers:\n      - name: i\n        args:\n        - |+\n          x\n\n\n",
        "      initContainers:\n      - name: i\n        args:\n        - >-\n          x\n\n\n      # y\n\n",
        "      terminationGracePeriodSeconds: 0o17\n...\n",
        "      nodeName: 'a\n\n        b'\n",
        "      nodeName: a\n        b # c\n",
    ] {
        for text in [
            deployment(&format!("{BASE}{spec}")),
            deployment(&format!("{BASE}{spec}")).replace('\n', "\r\n"),
            format!("\u{feff}# x\n---\n{}", deployment(&format!("{BASE}{spec}"))),
        ] {
            returns(&text);
        }
    }
    for text in [
        deployment("      {containers: [{name: a}], volumes: ~,\n       initContainers: }\n"),
        deployment("      {\"containers\": [{\"name\": \"a\"}], volumes: [ {name: v} ]}"),
        deployment("      containers: [{name: a}]\n").replace("template:", "template: # x\n    metadata: ~"),
        deployment("      containers: [{name: a}]\n").replace("template:", "template:\n    metadata:\n      annotations: {}"),
        deployment("      containers: [{name: a}]\n").replace("template:", "template:\n    metadata: {}"),
        deployment("      containers: [{name: a}]").replace("template:", "template:\n    metadata: {labels: {a: b}, annotations: }"),
        "{\"kind\": \"Pod\", \"metadata\": null, \"spec\": {\"volumes\": [], \"initContainers\": null, \"containers\":[{\"name\":\"a\"}]}}{\"kind\": \"Pod\", \"spec\": {\"containers\": [{\"name\": \"\\ud83d\"}]}}".to_owned(),
        "{\r\n\t\"kind\": \"Pod\",\r\n\t\"spec\": {\r\n\t\t\"containers\": [\r\n\t\t\t{\"name\": \"a\"}\r\n\t\t],\r\n\t\t\"initContainers\": [\r\n\t\t\t{\"name\": \"b\"}\r\n\t\t],\"volumes\": [ ]\r\n\t}\r\n}".to_owned(),
    ] {
        returns(&text);
    }
}

/// The parser's positions are those of bytes, wherever a character has more than one.
#[test]
fn text_beyond_ascii_is_restored_byte_for_byte() {
    const TEXT: &str = "\
# LL
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web # LL
  annotations:
    owner: LL
    LL: 'LL ''LL'
    \"LL\tLL\": !LL \"LL \\
      LL\"
spec:
  template:
    # LL
    metadata: {annotations: {LL: LL}, labels: {\"LL\": 'LL'}}
    spec:
      containers: # LL
      # LL
      - name: LL
        args:
        - |
          LL

        - >-
          LL
          LL
        - LL
          LL
        # LL
      volumes: [{name: LL}, {\"name\": \"LL\"}] # LL
      initContainers:
        # LL
        - {name: LL}
---
apiVersion: v1
kind: List
items: [ # LL
  {kind: Pod, metadata: {name: LL}, spec: {containers: [{name: LL}], volumes: ~}} # LL
]
";
    for letters in &LETTERS[1..] {
        let text = TEXT
            .replace("!LL", "!x")
            .replace("LL", &format!("a{letters}b"));
        for text in [
            text.clone(),
            text.replace('\n', "\r\n"),
            format!("\u{feff}{text}"),
            text.trim_end().to_owned(),
        ] {
            returns(&text);
        }
        let json = json!({"kind": "Pod", "metadata": {"name": letters, *letters: [letters]}, "spec": {"containers": [{"name": letters}]}});
        returns(&json.to_string());
        returns(&serde_json::to_string_pretty(&json).expect("JSON"));
    }
}

/// Every way of writing the annotation that injection makes longer.
#[test]
fn longer_annotation_is_restored_byte_for_byte() {
    const NAME: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    let in_block = [
        "x",
        "\"x\" # c",
        "'x'",
        "''",
        "\"\"",
        "x' # c",
        "x\"",
        "\"x'\"",
        "'it''s'",
        "'x'''",
        "it's",
        "a\n          b",
        "\"x\\\n          y\"",
        "\"x\\x79\"",
        "!!str x",
        "!!str \"\"",
        "&e x # c",
        "|\n          x",
        "|2-\n          x\n\n",
        ">- # c\n          x,\n          y",
        "|+\n          x\n\n\n",
        "!!str |-\n          ü\n",
    ];
    let in_brackets = [
        "x",
        "'x'",
        "\"\"",
        "x'",
        "x y",
        "\"x\\\n          y\"",
        "!!str x",
        "x\n          y",
        "ü",
    ];
    let last = ["", "\n        # c", "\n        z: 1"];
    for value in in_block {
        for last in last {
            let text = deployment("      containers: [{name: a}]\n").replace(
                "    spec:\n      cont",
                &format!("    metadata:\n      annotations:\n        {NAME}: {}{last}\n    spec:\n      cont", value.trim_end_matches('\n')),
            );
            returns(&text);
            returns(&text.replace('\n', "\r\n"));
        }
    }
    for value in in_brackets {
        for (before, after) in [
            ("", ""),
            ("a: b, ", " "),
            (" ", ", z: 1 # c\n       "),
            ("", ",\n        "),
        ] {
            let text = deployment("      containers: [{name: a}]\n").replace(
                "    spec:\n      cont",
                &format!("    metadata: {{annotations: {{{before}{NAME}: {value}{after}}}}}\n    spec:\n      cont"),
            );
            returns(&text);
            returns(&text.replace('\n', "\r\n"));
        }
    }
    let alias = deployment("      containers: [{name: a}]\n").replace(
        "    spec:\n      cont",
        &format!("    metadata:\n      labels: {{e: &e x}}\n      annotations:\n        {NAME}: *e # c\n    spec:\n      cont"),
    );
    let changed = returns(&alias);
    assert!(changed.contains("labels: {e: &e x}"), "{changed}");
    let pod = json!({"kind": "Pod", "metadata": {"annotations": {NAME: ""}}, "spec": {"containers": [{"name": "a"}]}});
    returns(&pod.to_string());
    // Where it cannot be, its own line is named.
    let shared = alias
        .replace("{e: &e x}", "{}")
        .replace("*e # c", "&e x")
        .replace("    spec:", "        z: *e\n    spec:");
    let refused = inject_text(&shared, &files()).expect("YAML");
    let line = 1 + shared
        .lines()
        .position(|line| line.contains(NAME))
        .expect("its line");
    let expected = format!("deployment/web: not injected: line {line}: ");
    assert!(
        refused
            .messages
            .iter()
            .any(|message| message.starts_with(&expected)),
        "{:?}",
        refused.messages
    );
}

/// Each part of a Deployment in the ways of writing that it has; what is empty is absent.
const HEADS: [&str; 4] = ["", "\u{feff}", "# a\n---\n# b\n", "--- # c\n"];
const METADATA: [&str; 9] = [
    "",
    "    metadata:\n",
    "    metadata: ~ # m\n",
    "    metadata: {}\n",
    "    metadata: {annotations: null, labels: {a: b}}\n",
    "    metadata:\n      annotations: # a\n      labels: {a: b}\n",
    "    metadata:\n      # l\n      labels:\n        a: yes\n",
    "    \"metadata\":\n        annotations:\n            a: |\n              b\n\n            # c\n",
    "    metadata:\n      annotations: {\n        a: b # c\n      }\n",
];
const CONTAINERS: [&str; 4] = [
    "      containers: [{name: a, args: [0644, 1e3]}] # c\n",
    "      containers:\n      - name: a\n        args:\n        - >+\n          x\n\n\n",
    "      'containers':\n          # c\n          -   name: a\n              tty: no\n          # - name: b\n",
    "      containers: &c\n      - name: a\n      x: *c\n",
];
const INIT: [&str; 8] = [
    "",
    "      initContainers:\n",
    "      initContainers:\t\n      # none\n",
    "      initContainers: []\n",
    "      initContainers: [ {name: i}, # i\n        ]\n",
    "      initContainers:\n      # i\n\n      # j\n      - name: i\n        args: [\"x\\\n          y\"]\n",
    "      initContainers:\n        - # i\n          name: i\n# far left\n        - {name: j}\n",
    "      \"initContainers\": Null # was\n",
];
const VOLUMES: [&str; 9] = [
    "",
    "      volumes:\n",
    "      volumes: null\n",
    "      volumes: [ ] # none\n",
    "      volumes: [{name: v}, {name: w}]\n",
    "      volumes: [\n        {name: v}\n      ]\n",
    "      volumes:\n      - name: v\n        configMap: {name: c, defaultMode: 0644}\n      # - name: w\n",
    "      volumes:\n        - configMap:\n            name: c\n          name: v\n\n        # - name: w\n# far left\n",
    "      volumes: !!seq\n      - {name: v} # v\n",
];
const ENDS: [&str; 4] = [
    "",
    "...\n",
    "# end\n",
    "---\nkind: ConfigMap\ndata: !x {a: b}\n",
];

/// Characters of one to four bytes, two that combine, and one whose UTF-16 has two units.
const LETTERS: [&str; 6] = [
    "",
    "ü",
    "日本語",
    "e\u{301}",
    "👩\u{200d}💻",
    "\u{a0}é\u{3000}x",
];

/// In keys, values, comments, block scalars and quotes of the parts above, letters can follow these.
const WHERE_LETTERS: [&str; 9] = [
    "# ",
    "name: a",
    "name: v",
    "{a",
    "{name: i",
    ": |\n              b",
    ">+\n          x",
    "[\"x",
    "   y",
];

proptest::proptest! {
    #[test]
    fn mixed_yaml_styles_are_restored_byte_for_byte(
        head in proptest::sample::select(&HEADS[..]),
        metadata in proptest::sample::select(&METADATA[..]),
        containers in proptest::sample::select(&CONTAINERS[..]),
        init in proptest::sample::select(&INIT[..]),
        volumes in proptest::sample::select(&VOLUMES[..]),
        end in proptest::sample::select(&ENDS[..]),
        order in 0..6_usize,
        metadata_last: bool,
        crlf: bool,
        open: bool,
        letters in proptest::sample::select(&LETTERS[..]),
    ) {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let spec: String = orders[order].map(|part| [containers, init, volumes][part]).concat();
        let spec = format!("    spec:\n{spec}");
        let template = if metadata_last { [&spec, metadata] } else { [metadata, &spec] }.concat();
        let mut text = format!("{head}kind: Deployment\nmetadata: {{name: web}}\nspec:\n  template:\n{template}{end}");
        for before in WHERE_LETTERS {
            text = text.replace(before, &format!("{before}{letters}"));
        }
        if crlf {
            text = text.replace('\n', "\r\n");
        }
        if open {
            text.truncate(text.trim_end().len());
        }
        let injected = returns(&text);
        let name = "FLOWCAR_OWNER_NAME";
        proptest::prop_assert_eq!(injected.matches(name).count(), 1);
    }
}
