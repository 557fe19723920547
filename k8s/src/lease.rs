//! One replica at a time: a `coordination.k8s.io` Lease.
//!
//! The rule is client-go's: a Lease is free when its holder has not renewed it for its duration by *our*
//! clock since we saw the last renewal, so clocks need not agree.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, api::PostParams};
use tokio::time::Instant;

use crate::clock;

/// How long a silent holder keeps the Lease.
pub(crate) const DURATION: Duration = Duration::from_secs(15);

/// How often to try, as holder or not.
pub(crate) const PERIOD: Duration = Duration::from_secs(4);

/// This replica's view of the Lease.
pub(crate) struct Claim {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// The renewal seen last, and when we saw it.
    seen: Option<(Option<MicroTime>, Instant)>,
}

/// Why the Lease cannot be held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// The Lease of flowcar's manifests is missing.
    #[error("there is no Lease {0}; flowcar may not create it: install its manifests again")]
    Absent(String),
    /// The API server refused or did not answer.
    #[error(transparent)]
    Api(#[from] kube::Error),
}

// === impl Claim ===

impl Claim {
    pub(crate) fn new(client: &kube::Client, namespace: &str, name: &str, identity: &str) -> Self {
        let leases = Api::namespaced(client.clone(), namespace);
        Self {
            leases,
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
        }
    }

    /// Takes or renews the Lease if it can be had; whether this replica holds it now.
    pub(crate) async fn hold(&mut self) -> Result<bool, LeaseError> {
        let found = self.leases.get_opt(&self.name).await?;
        let lease = found.ok_or_else(|| LeaseError::Absent(self.name.clone()))?;
        if !self.is_free(&lease) {
            return Ok(false);
        }
        let mine = self.lease(&lease);
        let params = PostParams::default();
        match self.leases.replace(&self.name, &params, &mine).await {
            Ok(_) => Ok(true),
            // Another replica was quicker.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Releases the Lease, so that the next replica need not wait.
    pub(crate) async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            return Ok(());
        };
        let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
        else {
            return Ok(());
        };
        spec.holder_identity = None;
        self.leases
            .replace(&self.name, &PostParams::default(), &lease)
            .await
            .map(drop)
    }

    fn is_free(&mut self, lease: &Lease) -> bool {
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if self.seen.as_ref().map(|(renewed, _)| renewed) != Some(&spec.renew_time) {
            self.seen = Some((spec.renew_time, Instant::now()));
        }
        let silent = self
            .seen
            .as_ref()
            .is_some_and(|(_, at)| at.elapsed() > DURATION);
        holder.is_empty() || holder == self.identity || silent
    }

    fn lease(&self, old: &Lease) -> Lease {
        let now = MicroTime(clock::timestamp());
        let old_spec = old.spec.clone().unwrap_or_default();
        let kept = old_spec.holder_identity.as_ref() == Some(&self.identity);
        let transitions = old_spec.lease_transitions.unwrap_or_default();
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            acquire_time: if kept {
                old_spec.acquire_time.clone()
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: Some(if kept {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..old_spec
        };
        Lease {
            metadata: old.metadata.clone(),
            spec: Some(spec),
        }
    }
}
