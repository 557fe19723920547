//! The target of a redirect, without the secrets that may be in it. Pure.

use http::{HeaderMap, header::LOCATION};

use crate::config::shown_path;

/// Whether an HTTP status is a redirect (RFC 9110 section 15.4).
pub(super) const fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// The target of a redirect, if it names one: user info, query and fragment hidden.
pub(super) fn target(headers: &HeaderMap) -> Option<String> {
    let location = headers.get(LOCATION)?;
    Some(hide(&String::from_utf8_lossy(location.as_bytes())))
}

/// A URL, relative or not, well formed or not, without possible secrets.
fn hide(url: &str) -> String {
    let (before, query) = match url.find(['?', '#']) {
        Some(at) => (&url[..at], "?(hidden)"),
        None => (url, ""),
    };
    let from = before.find("//").map_or(0, |at| at + 2);
    let authority_ends = before[from..]
        .find(['/', '\\'])
        .map_or(before.len(), |at| from + at);
    let (scheme, authority, path) = (
        &before[..from],
        &before[from..authority_ends],
        &before[authority_ends..],
    );
    let authority = match authority.rfind('@') {
        Some(at) => format!("(hidden){}", &authority[at..]),
        None => authority.to_owned(),
    };
    format!("{scheme}{authority}{}{query}", shown_path(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_target_is_shown_without_secrets() {
        for (location, reported) in [
            (
                "https://o.example/v1/metrics",
                "https://o.example/v1/metrics",
            ),
            ("/v1/metrics/", "/v1/metrics/"),
            (
                "https://me:s3cret@o.example:4318/x",
                "https://(hidden)@o.example:4318/x",
            ),
            ("//s3cret@o.example", "//(hidden)@o.example"),
            ("https://a@s3cret@o.example/", "https://(hidden)@o.example/"),
            (
                "https://o.example/login?token=s3cret&b=c",
                "https://o.example/login?(hidden)",
            ),
            (
                "https://o.example/v1;s=s3cret/x",
                "https://o.example/(hidden)/x",
            ),
            ("https://o.example/#s3cret", "https://o.example/?(hidden)"),
            (
                "https://o.example?u=https://x:s3cret@y",
                "https://o.example?(hidden)",
            ),
            ("", ""),
        ] {
            let headers = HeaderMap::from_iter([(LOCATION, location.parse().expect("a header"))]);
            assert_eq!(target(&headers).as_deref(), Some(reported));
        }
        assert_eq!(target(&HeaderMap::new()), None);
    }
}
