//! What is due, and when the next thing will be.
//!
//! An authority is replaced in three steps, so that at every moment every client trusts every server:
//! the new one is made and trusted beside the old; once that is published and has settled, it signs the leaf;
//! the old one stays trusted until it expires.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use super::material::{Authority, Material, MaterialError, life, names};

/// How long things live.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The names and addresses that the webhook is called by.
    pub names: Vec<String>,
    /// An authority's lifetime; a new one is made after two thirds of it.
    pub ca_lifetime: Duration,
    /// A serving certificate's lifetime; a new one is made after two thirds of it.
    pub leaf_lifetime: Duration,
    /// How long every API server and replica may take to see a change.
    pub settle: Duration,
}

/// The next state, and when to run again.
pub struct Step {
    /// What the Secret should hold.
    pub material: Material,
    /// Whether that differs from what it holds.
    pub changed: bool,
    /// When something will be due again.
    pub next: SystemTime,
}

/// Works out what is due at `now`. `published`: the webhook configuration carries the whole bundle.
///
/// # Errors
/// If the cryptography library fails or the material cannot be read.
pub fn advance(
    current: Option<Material>,
    now: SystemTime,
    policy: &Policy,
    published: bool,
) -> Result<Step, MaterialError> {
    let Some(current) = current else {
        let material =
            Material::make(&policy.names, now, policy.ca_lifetime, policy.leaf_lifetime)?;
        return Step::of(material, true, policy);
    };
    let mut material = current.clone();
    material
        .retired
        .retain(|pem| life(pem).is_ok_and(|life| life.ends > now));
    if life(&material.signer.cert)?.ends <= now {
        // The authority has expired: nothing is left to overlap with.
        let fresh = Material::make(&policy.names, now, policy.ca_lifetime, policy.leaf_lifetime)?;
        return Step::of(fresh, true, policy);
    }
    if material.next.is_none() && now >= due(&material.signer.cert)? {
        material.next = Some(Authority::make(now, policy.ca_lifetime)?);
    }
    if published
        && let Some(next) = &material.next
        && now >= life(&next.cert)?.made + policy.settle
    {
        let retired = std::mem::replace(&mut material.signer, next.clone());
        material.retired.insert(0, retired.cert);
        material.next = None;
        material = material.with_leaf(&policy.names, now, policy.leaf_lifetime)?;
    }
    // A certificate has addresses as numbers, and gives them back in their shortest form.
    let shortest = |name: &String| {
        let address = name.parse::<IpAddr>();
        address.map_or_else(|_| name.clone(), |address| address.to_string())
    };
    let mut wanted: Vec<_> = policy.names.iter().map(shortest).collect();
    wanted.sort();
    if now >= due(&material.cert)? || names(&material.cert)? != wanted {
        material = material.with_leaf(&policy.names, now, policy.leaf_lifetime)?;
    }
    let changed = material != current;
    Step::of(material, changed, policy)
}

/// Two thirds of a certificate's life.
fn due(pem: &str) -> Result<SystemTime, MaterialError> {
    let life = life(pem)?;
    Ok(life.made + life.ends.duration_since(life.made).unwrap_or_default() * 2 / 3)
}

// === impl Step ===

impl Step {
    fn of(material: Material, changed: bool, policy: &Policy) -> Result<Self, MaterialError> {
        let authority = match &material.next {
            Some(next) => life(&next.cert)?.made + policy.settle,
            None => due(&material.signer.cert)?,
        };
        let retired = material
            .retired
            .iter()
            .filter_map(|pem| life(pem).ok())
            .map(|life| life.ends)
            .min();
        let next = authority.min(due(&material.cert)?);
        let next = retired.map_or(next, |retired| next.min(retired));
        Ok(Self {
            material,
            changed,
            next,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use rustls::client::danger::ServerCertVerifier;
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

    use super::{
        super::{Material, SecretData},
        Policy, advance,
    };

    const HOUR: Duration = Duration::from_secs(3600);

    fn policy() -> Policy {
        Policy {
            names: vec!["w.ns.svc".to_owned(), "127.0.0.1".to_owned()],
            ca_lifetime: 90 * HOUR,
            leaf_lifetime: 9 * HOUR,
            settle: HOUR,
        }
    }

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// Whether a client with this bundle accepts this leaf, by rustls' own verifier.
    fn trusts(bundle: &str, leaf: &str, now: SystemTime, name: &str) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(ca.expect("PEM")).expect("a CA");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
                .build();
        let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).expect("PEM");
        let now = UnixTime::since_unix_epoch(
            now.duration_since(SystemTime::UNIX_EPOCH)
                .expect("after 1970"),
        );
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        verifier
            .expect("roots")
            .verify_server_cert(&leaf, &[], &name, &[], now)
            .is_ok()
    }

    #[test]
    fn new_certificate_is_valid_for_its_names_only() {
        let step = advance(None, start(), &policy(), false).expect("makes");
        let leaf = &step.material.cert;
        assert!(step.changed);
        assert!(trusts(&step.material.bundle(), leaf, start(), "w.ns.svc"));
        assert!(trusts(&step.material.bundle(), leaf, start(), "127.0.0.1"));
        assert!(!trusts(
            &step.material.bundle(),
            leaf,
            start(),
            "other.ns.svc"
        ));
        let other = advance(None, start(), &policy(), false)
            .expect("makes")
            .material;
        assert!(!trusts(&other.bundle(), leaf, start(), "w.ns.svc"));
    }

    #[test]
    fn material_reads_back_from_two_secrets() {
        let first = advance(None, start(), &policy(), true)
            .expect("makes")
            .material;
        let due = start() + 61 * HOUR;
        let overlapping = advance(Some(first), due, &policy(), true)
            .expect("advances")
            .material;
        assert!(overlapping.next.is_some());
        let (serving, keys) = (overlapping.to_secret(), overlapping.to_keys());
        assert_eq!(
            serving
                .keys()
                .filter(|name| name.ends_with("ca.key"))
                .count(),
            0
        );
        let read = Material::from_secrets(&serving, &keys).expect("reads back");
        assert!(read == overlapping);
        // Earlier versions kept everything in one Secret.
        let mut together = keys.clone();
        together.extend(serving.clone());
        let read = Material::from_secrets(&together, &SecretData::new()).expect("reads back");
        assert!(read == overlapping);
        assert!(Material::from_secrets(&serving, &SecretData::new()).is_err());
        let mut broken = serving;
        broken.remove("tls.key");
        assert!(Material::from_secrets(&broken, &keys).is_err());
    }

    /// A year of hours with clients that see every bundle, and replicas that see every leaf, up to an hour late.
    #[test]
    fn every_client_trusts_every_server_during_rotation() {
        let mut history: Vec<(String, String)> = Vec::new();
        let (mut current, mut signers, mut leaves) = (None, 0, 0);
        for hour in 0..1000 {
            let now = start() + hour * HOUR;
            let before: Option<Material> = current.clone();
            let step = advance(current, now, &policy(), true).expect("advances");
            assert!(step.next > now, "hour {hour}: nothing is due twice at once");
            if let Some(before) = before {
                assert_eq!(step.changed, before != step.material);
                signers += u32::from(before.signer.cert != step.material.signer.cert);
                leaves += u32::from(before.cert != step.material.cert);
            }
            history.push((step.material.bundle(), step.material.cert.clone()));
            let recent = &history[history.len().saturating_sub(2)..];
            for (bundle, _) in recent {
                for (_, leaf) in recent {
                    assert!(trusts(bundle, leaf, now, "w.ns.svc"), "hour {hour}");
                }
            }
            assert!(step.material.retired.len() <= 1);
            current = Some(step.material);
        }
        assert!(
            signers >= 10 && leaves >= 100,
            "{signers} signers, {leaves} leaves"
        );
    }

    #[test]
    fn new_authority_signs_only_once_published() {
        let first = advance(None, start(), &policy(), true)
            .expect("makes")
            .material;
        let made = advance(Some(first.clone()), start() + 61 * HOUR, &policy(), false)
            .expect("advances")
            .material;
        let later = advance(Some(made.clone()), start() + 70 * HOUR, &policy(), false)
            .expect("advances")
            .material;
        assert!(later.signer.cert == first.signer.cert && later.next == made.next);
        let published = advance(Some(later), start() + 70 * HOUR, &policy(), true)
            .expect("advances")
            .material;
        assert!(Some(&published.signer) == made.next.as_ref());
    }

    #[test]
    fn changed_names_or_expiry_make_a_new_leaf() {
        let first = advance(None, start(), &policy(), true)
            .expect("makes")
            .material;
        let renamed = Policy {
            names: vec!["x.ns.svc".to_owned()],
            ..policy()
        };
        let step = advance(Some(first.clone()), start(), &renamed, true).expect("advances");
        assert!(step.changed && trusts(&first.bundle(), &step.material.cert, start(), "x.ns.svc"));
        let late = start() + 1000 * HOUR;
        let step = advance(Some(first), late, &policy(), true).expect("advances");
        assert!(
            step.changed
                && trusts(
                    &step.material.bundle(),
                    &step.material.cert,
                    late,
                    "w.ns.svc"
                )
        );
    }
}
