//! The pages that people read: README's size, and every link in every page.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Bytes that README.md may have, so that it is read to its end.
const README_BYTES: usize = 9_000;

/// Bytes that a picture of an answer may have (docs/images/answers).
const PICTURE_BYTES: u64 = 60_000;

/// Folders without pages of ours.
const SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Markdown file below a folder.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !SKIPPED.contains(&&*name) {
            pages(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The text without its blocks and pieces of code.
fn prose(text: &str) -> String {
    let outside = text.split("```").step_by(2).collect::<String>();
    outside.split('`').step_by(2).collect()
}

/// Targets of inline links and pictures.
fn links(prose: &str) -> Vec<&str> {
    let targets = prose.split("](").skip(1);
    targets.filter_map(|rest| rest.split(')').next()).collect()
}

/// The anchors that GitHub gives a page's headings: lower case, punctuation dropped, spaces as hyphens.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).expect("a page");
    let outside = text.split("\n```").step_by(2).collect::<String>();
    let headings = outside.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn readme_is_short() {
    let bytes = fs::read(root().join("README.md")).expect("README.md").len();
    assert!(
        bytes <= README_BYTES,
        "{bytes} bytes, {README_BYTES} at most"
    );
}

#[test]
fn pictures_of_answers_are_small_and_each_is_shown() {
    let text = fs::read_to_string(root().join("docs/questions.md")).expect("the page");
    let folder = fs::read_dir(root().join("docs/images/questions")).expect("the pictures");
    let pictures: Vec<_> = folder
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert!(pictures.len() > 20, "{pictures:?}");
    for picture in pictures {
        let bytes = fs::metadata(&picture).expect("a picture").len();
        assert!(
            bytes < PICTURE_BYTES,
            "{}: {bytes} bytes",
            picture.display()
        );
        let name = picture.file_name().expect("a name").to_string_lossy();
        assert!(
            text.contains(&format!("](images/questions/{name})")),
            "{name} is not shown"
        );
    }
}

#[test]
fn every_link_has_its_target() {
    let mut all = Vec::new();
    pages(&root(), &mut all);
    assert!(all.len() > 30, "{} pages", all.len());
    let mut broken = Vec::new();
    for page in &all {
        let text = fs::read_to_string(page).expect("a page");
        for link in links(&prose(&text)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("a folder").join(file),
            };
            let is_there =
                target.exists() && (anchor.is_empty() || anchors(&target).contains(anchor));
            if !is_there {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
