//! How long the certificates in a Secret are still valid, and whether their renewal is overdue.

use std::time::{Duration, SystemTime};

use super::material::{BACKDATE, MaterialError, SecretData, life, split_bundle};

/// The certificate that is not valid yet, or else expires first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remaining {
    /// Which certificate it is.
    pub(crate) what: &'static str,
    /// How long it is valid; zero once it has expired.
    pub(crate) left: Duration,
    /// When it begins to be valid; zero once it is.
    pub(crate) begins_in: Duration,
    /// Less than a quarter of its life is left: flowcar and cert-manager both renew when a third is.
    pub(crate) is_overdue: bool,
    /// flowcar's controller makes the certificates.
    pub(crate) is_own: bool,
}

/// Whether flowcar's controller has made what is in this Secret.
pub(crate) fn is_own(data: &SecretData) -> bool {
    data.contains_key("signing-ca.crt")
}

/// Of the serving certificate and the authority that lives longest, the one that expires first.
///
/// # Errors
/// If the Secret lacks the serving certificate, or one cannot be read.
pub(crate) fn remaining(data: &SecretData, now: SystemTime) -> Result<Remaining, MaterialError> {
    let text = |name| {
        let bytes = data.get(name)?;
        Some(String::from_utf8_lossy(&bytes.0).into_owned())
    };
    let serving = text("tls.crt").ok_or(MaterialError::Missing("tls.crt"))?;
    let mut all = vec![("serving certificate", life(&serving)?)];
    let authorities = split_bundle(&text("ca.crt").unwrap_or_default());
    let lives = authorities
        .iter()
        .map(|pem| life(pem))
        .collect::<Result<Vec<_>, _>>()?;
    all.extend(
        lives
            .into_iter()
            .max_by_key(|life| life.ends)
            .map(|life| ("authority", life)),
    );
    let remaining = all.into_iter().map(|(what, life)| {
        let whole = life.ends.duration_since(life.made).unwrap_or_default();
        let left = life.ends.duration_since(now).unwrap_or_default();
        Remaining {
            what,
            left,
            begins_in: (life.made - BACKDATE)
                .duration_since(now)
                .unwrap_or_default(),
            is_overdue: left < whole / 4,
            is_own: is_own(data),
        }
    });
    Ok(remaining
        .min_by_key(|remaining| {
            let is_valid = remaining.begins_in.is_zero();
            (is_valid, !remaining.is_overdue, remaining.left)
        })
        .expect("there is the serving certificate"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{super::Material, BACKDATE, is_own, remaining};

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn earliest_expiry_is_reported_before_it_passes() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let names = ["w.ns.svc".to_owned()];
        let material = Material::make(&names, start, 400 * HOUR, 100 * HOUR).expect("makes");
        let mut data = material.to_secret();
        assert!(is_own(&data));
        let at = |data: &_, hours: u32| {
            let found = remaining(data, start + hours * HOUR).expect("it can be read");
            (found.what, found.left / 3600, found.is_overdue)
        };
        let seconds = Duration::from_secs;
        assert_eq!(at(&data, 0), ("serving certificate", seconds(100), false));
        assert_eq!(at(&data, 74), ("serving certificate", seconds(26), false));
        assert_eq!(at(&data, 76), ("serving certificate", seconds(24), true));
        assert_eq!(at(&data, 101), ("serving certificate", seconds(0), true));

        let early = remaining(&data, start - 30 * HOUR).expect("it can be read");
        assert_eq!(early.begins_in, 30 * HOUR - BACKDATE);

        // The leaf is renewed and the authority is not.
        let renewed = Material::make(&names, start + 300 * HOUR, 400 * HOUR, 100 * HOUR);
        let renewed = renewed.expect("makes").to_secret();
        data.insert("tls.crt".to_owned(), renewed["tls.crt"].clone());
        assert_eq!(at(&data, 310), ("authority", seconds(90), true));
        data.remove("tls.crt");
        assert!(remaining(&data, start).is_err());
    }
}
