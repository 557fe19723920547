use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
};

use super::{Input, Sources, join};

fn sources(names: &[&str], recursive: bool) -> Sources {
    let filename = names.iter().map(|name| (*name).to_owned()).collect();
    Sources {
        filename,
        recursive,
    }
}

fn texts(sources: &Sources) -> Vec<String> {
    let inputs = sources.read().expect("everything is there");
    inputs.into_iter().map(|input| input.text).collect()
}

#[test]
fn directories_are_read_recursively_only_on_request() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        ("b.yaml", "b"),
        ("a.yml", "a"),
        ("c.txt", "c"),
        ("aa/d.json", "d"),
    ] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    let path = folder.path().to_str().expect("UTF-8");
    assert_eq!(texts(&sources(&[path], false)), ["a", "b"]);
    assert_eq!(texts(&sources(&[path], true)), ["a", "d", "b"]);
    let named = format!("{path}/c.txt");
    assert_eq!(
        texts(&sources(&[&named, path], false)),
        ["c", "a", "b"],
        "a file that is named may end in anything"
    );
    std::fs::write(folder.path().join(".yaml"), "hidden").expect("a file");
    assert_eq!(texts(&sources(&[path], false)), ["hidden", "a", "b"]);
    std::fs::remove_file(folder.path().join(".yaml")).expect("it was there");
    let pattern = format!("{path}/[ab].*");
    assert_eq!(texts(&sources(&[&pattern], false)), ["a", "b"]);
    std::fs::write(&pattern, "named so").expect("a file");
    assert_eq!(texts(&sources(&[&pattern], false)), ["named so"]);
    std::fs::remove_file(&pattern).expect("it was there");
    let nothing = sources(&[&format!("{path}/*.none")], false).read();
    assert!(format!("{:#}", nothing.expect_err("none fits")).contains("*.none"));
    let below = format!("{path}/aa");
    std::fs::remove_file(format!("{below}/d.json")).expect("it was there");
    let error = sources(&[&below], false).read().expect_err("nothing there");
    assert!(
        error.to_string().contains(".json, .yaml or .yml"),
        "{error}"
    );
    assert!(sources(&[], false).read().is_err());
}

/// Answers one connection after the other with these.
fn server(answers: Vec<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!(
        "http://{}/x.yaml",
        listener.local_addr().expect("an address")
    );
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn url_fetch_is_retried_after_a_server_error() {
    const FAILS: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\na: 1";
    const NONE: &str = "HTTP/1.1 404 None\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(
        texts(&sources(&[&server(vec![FAILS, FINE])], false)),
        ["a: 1"]
    );
    let missing = sources(&[&server(vec![NONE])], false).read();
    let error = missing.expect_err("it is not there");
    assert!(error.to_string().contains("answered 404"), "{error}");
}

#[test]
fn utf_16_is_read_by_its_mark_and_written_back() {
    for little in [true, false] {
        let units = "\u{feff}a: é\n".encode_utf16();
        let bytes: Vec<u8> = match little {
            true => units.flat_map(u16::to_le_bytes).collect(),
            false => units.flat_map(u16::to_be_bytes).collect(),
        };
        let input = Input::decode("x", &bytes).expect("UTF-16");
        assert_eq!(input.text, "\u{feff}a: é\n");
        let text = input.text.clone();
        assert_eq!(join(&[(&input, text)]), bytes);
    }
    let error = Input::decode("x", b"a: 1\nb: \xff\n").expect_err("no UTF-8");
    assert!(format!("{error:#}").contains("line 2"), "{error:#}");
}

#[test]
fn several_inputs_become_one_stream() {
    let texts: Vec<_> = [
        "\u{feff}a: 1",
        "{\"b\": 2}{\"c\": 3}",
        "---\nd: 4\n",
        "# nothing\n",
    ]
    .into_iter()
    .map(|text| (Input::decode("x", text.as_bytes()).expect("UTF-8"), text))
    .collect();
    let texts: Vec<_> = texts
        .iter()
        .map(|(input, text)| (input, (*text).to_owned()))
        .collect();
    let joined = String::from_utf8(join(&texts)).expect("UTF-8");
    assert_eq!(
        joined,
        "---\na: 1\n---\n{\"b\": 2}\n---\n{\"c\": 3}\n---\nd: 4\n---\n# nothing\n"
    );
}
