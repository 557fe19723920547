//! What `-f` names, read as kubectl reads it: files, directories, URLs and the standard input.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;

use super::{glob::glob, yaml::standalone};

/// Files in directories are read where their names end so.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// Attempts for a URL, and its timeout.
const ATTEMPTS: usize = 3;
const ATTEMPT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);

/// No manifest behind a URL is larger, in bytes.
const LARGEST: u64 = 64 << 20;

/// Where manifests are.
#[derive(Clone, Debug, Default, Args)]
pub struct Sources {
    /// Files, directories, patterns of their names or URLs, with commas or by repeating this; `-` is the standard input.
    #[arg(short, long, value_delimiter = ',')]
    pub filename: Vec<String>,
    /// Read directories with everything below them.
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// One text.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) text: String,
    encoding: Encoding,
}

/// What a text's bytes are; kubectl knows UTF-16 by its byte order mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Utf16(Order),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

// === impl Sources ===

impl Sources {
    /// Reads everything, in the order in which it is named; directories by name.
    ///
    /// # Errors
    /// Where something cannot be read, or nothing is there.
    pub(super) fn read(&self) -> anyhow::Result<Vec<Input>> {
        if self.filename.is_empty() {
            bail!("name a file, a directory or a URL with -f; - is the standard input");
        }
        let mut inputs = Vec::new();
        for name in &self.filename {
            if name == "-" {
                let mut bytes = Vec::new();
                std::io::stdin()
                    .read_to_end(&mut bytes)
                    .context("reading the standard input")?;
                inputs.push(Input::decode("the standard input", &bytes)?);
            } else if name.starts_with("http://") || name.starts_with("https://") {
                inputs.push(Input::decode(name, &get(name)?)?);
            } else {
                for path in paths(name) {
                    self.read_path(&path, &mut inputs)?;
                }
            }
        }
        Ok(inputs)
    }

    fn read_path(&self, path: &Path, inputs: &mut Vec<Input>) -> anyhow::Result<()> {
        if !path.is_dir() {
            inputs.push(Input::open(path)?);
            return Ok(());
        }
        let mut files = Vec::new();
        self.walk(path, &mut files)
            .with_context(|| format!("reading {}", path.display()))?;
        if files.is_empty() {
            bail!(
                "{} has no file whose name ends in .json, .yaml or .yml{}",
                path.display(),
                if self.recursive {
                    ""
                } else {
                    "; -R also reads what is below it"
                }
            );
        }
        for file in files {
            inputs.push(Input::open(&file)?);
        }
        Ok(())
    }

    fn walk(&self, directory: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
        let entries = std::fs::read_dir(directory)?;
        let mut paths = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()?;
        paths.sort();
        for path in paths {
            let extension = path
                .file_name()
                .and_then(|name| name.to_str()?.rsplit_once('.'));
            let is_read = extension.is_some_and(|(_, own)| EXTENSIONS.contains(&own));
            if path.symlink_metadata()?.is_dir() {
                if self.recursive {
                    self.walk(&path, files)?;
                }
            } else if is_read {
                files.push(path);
            }
        }
        Ok(())
    }
}

/// What a name stands for: where nothing is called so, the files that it fits as a pattern.
fn paths(name: &str) -> Vec<PathBuf> {
    let own = PathBuf::from(name);
    let fitting = match own.symlink_metadata() {
        Ok(_) => Vec::new(),
        Err(_) => glob(name),
    };
    match fitting.is_empty() {
        true => vec![own],
        false => fitting,
    }
}

/// Fetches a URL. A server's own failure is tried again, as kubectl does.
fn get(url: &str) -> anyhow::Result<Vec<u8>> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(ATTEMPT))
        .http_status_as_error(false);
    let agent = config.build().new_agent();
    let mut attempt = 1;
    loop {
        let answer = agent.get(url).call();
        let is_last = attempt == ATTEMPTS;
        match answer {
            Ok(mut response) if response.status().is_success() => {
                let body = response.body_mut().with_config().limit(LARGEST);
                return body.read_to_vec().with_context(|| format!("reading {url}"));
            }
            Ok(response) if is_last || !response.status().is_server_error() => {
                bail!("reading {url}: the server answered {}", response.status());
            }
            Err(error) if is_last => return Err(error).with_context(|| format!("reading {url}")),
            Ok(_) | Err(_) => {}
        }
        attempt += 1;
        std::thread::sleep(PAUSE);
    }
}

// === impl Input ===

impl Input {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Self::decode(&path.display().to_string(), &bytes)
    }

    fn decode(name: &str, bytes: &[u8]) -> anyhow::Result<Self> {
        let (encoding, text) = match bytes {
            [0xff, 0xfe, ..] => (
                Encoding::Utf16(Order::Little),
                utf16(bytes, u16::from_le_bytes),
            ),
            [0xfe, 0xff, ..] => (
                Encoding::Utf16(Order::Big),
                utf16(bytes, u16::from_be_bytes),
            ),
            _ => (Encoding::Utf8, utf8(bytes)),
        };
        let text = text.with_context(|| format!("reading {name}"))?;
        let name = name.to_owned();
        Ok(Self {
            name,
            text,
            encoding,
        })
    }

    /// A text in the encoding that this one had.
    fn encode(&self, text: &str) -> Vec<u8> {
        match self.encoding {
            Encoding::Utf8 => text.as_bytes().to_vec(),
            Encoding::Utf16(Order::Little) => {
                text.encode_utf16().flat_map(u16::to_le_bytes).collect()
            }
            Encoding::Utf16(Order::Big) => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        }
    }
}

fn utf8(bytes: &[u8]) -> anyhow::Result<String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        anyhow::anyhow!("line {line}: what is here is no UTF-8")
    })?;
    Ok(text.to_owned())
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> anyhow::Result<String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        bail!("it begins as UTF-16 and ends in half a character");
    }
    let units: Vec<_> = pairs.iter().map(|pair| unit(*pair)).collect();
    String::from_utf16(&units).context("it begins as UTF-16 and is none")
}

/// The new texts of some inputs as one stream. A single text stays as it is, to the byte.
pub(super) fn join(texts: &[(&Input, String)]) -> Vec<u8> {
    match texts {
        [(input, text)] => input.encode(text),
        texts => {
            let parts: Vec<_> = texts.iter().map(|(_, text)| standalone(text)).collect();
            parts.concat().into_bytes()
        }
    }
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
