//! Renews the Secrets and publishes the webhook's `caBundle`.

use std::time::Duration;

use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{
    material::{Material, MaterialError, SecretData},
    rotation::{Policy, advance},
};
use crate::clock;

/// The field manager of `caBundle`, and of nothing else.
pub const WEBHOOK_FIELD_MANAGER: &str = "flowcar-controller";

/// Renews and publishes certificates while its replica holds the Lease.
pub struct CertificateReconciler {
    secrets: Api<Secret>,
    webhooks: Api<MutatingWebhookConfiguration>,
    names: Names,
    policy: Policy,
    /// What the Secrets held last, so that emptying one costs no call.
    last: Option<Material>,
}

/// The objects that are reconciled, by name.
#[derive(Clone, Debug)]
pub struct Names {
    /// The Secret that every replica serves from.
    pub secret: String,
    /// The Secret with the authorities' keys.
    pub keys: String,
    /// The MutatingWebhookConfiguration.
    pub webhook: String,
}

/// Why certificates could not be reconciled.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server refused or did not answer.
    #[error("{what}: {source}; the controller's RBAC allows exactly this object by name")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// A Secret of flowcar's manifests is missing.
    #[error("there is no Secret {0}; flowcar may not create it: install its manifests again")]
    Absent(String),
    /// See [`MaterialError`].
    #[error(transparent)]
    Material(#[from] MaterialError),
}

// === impl CertificateReconciler ===

impl CertificateReconciler {
    /// A reconciler of these objects.
    #[must_use]
    pub fn new(client: &kube::Client, namespace: &str, names: Names, policy: Policy) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            webhooks: Api::all(client.clone()),
            names,
            policy,
            last: None,
        }
    }

    /// Does all that is due, and returns the time until the next step.
    ///
    /// # Errors
    /// See [`ReconcileError`]; a conflict with another writer is one too, and the next call resolves it.
    pub async fn reconcile(&mut self) -> Result<Duration, ReconcileError> {
        let serving = self.read(&self.names.secret).await?;
        let keys = self.read(&self.names.keys).await?;
        let readable = match (data_of(&serving), data_of(&keys)) {
            (serving, keys) if serving.is_empty() && keys.is_empty() => None,
            (serving, keys) => Material::from_secrets(&serving, &keys)
                .inspect_err(|error| tracing::warn!(%error, "the certificates are recreated"))
                .ok(),
        };
        let current = readable.or_else(|| self.last.clone());
        let published = match &current {
            Some(material) => self.is_published(&material.bundle()).await?,
            None => false,
        };
        let step = advance(current, clock::wall_time(), &self.policy, published)?;
        // The keys first, so that the authority of a served leaf is never lost.
        let keys = self.store(keys, step.material.to_keys()).await?;
        let serving = self.store(serving, step.material.to_secret()).await?;
        if keys || serving {
            tracing::info!(secret = self.names.secret, "certificates written");
        }
        self.last = Some(step.material.clone());
        self.publish(&step.material.bundle()).await?;
        Ok(step
            .next
            .duration_since(clock::wall_time())
            .unwrap_or_default())
    }

    async fn read(&self, name: &str) -> Result<Secret, ReconcileError> {
        let found = self.secrets.get_opt(name).await;
        let found = found.map_err(api("reading a Secret"))?;
        found.ok_or_else(|| ReconcileError::Absent(name.to_owned()))
    }

    /// Writes what differs under the version that was read: one of two writers gets a conflict and reads again. Returns
    /// whether it wrote.
    async fn store(&self, stored: Secret, data: SecretData) -> Result<bool, ReconcileError> {
        if data_of(&stored) == data {
            return Ok(false);
        }
        let name = stored.metadata.name.clone().unwrap_or_default();
        let secret = Secret {
            data: Some(data),
            ..stored
        };
        let params = PostParams::default();
        let replaced = self.secrets.replace(&name, &params, &secret).await;
        replaced.map_err(api("writing a Secret"))?;
        Ok(true)
    }

    async fn configuration(&self) -> Result<MutatingWebhookConfiguration, ReconcileError> {
        self.webhooks
            .get(&self.names.webhook)
            .await
            .map_err(api("reading the MutatingWebhookConfiguration"))
    }

    async fn is_published(&self, bundle: &str) -> Result<bool, ReconcileError> {
        Ok(carries(&self.configuration().await?, bundle))
    }

    /// Sets `caBundle`, and only it, by server-side apply.
    async fn publish(&self, bundle: &str) -> Result<(), ReconcileError> {
        let configuration = self.configuration().await?;
        if carries(&configuration, bundle) {
            return Ok(());
        }
        let bytes = ByteString(bundle.as_bytes().to_vec());
        let webhooks: Vec<_> = configuration
            .webhooks
            .unwrap_or_default()
            .iter()
            .map(|webhook| json!({ "name": webhook.name, "clientConfig": { "caBundle": bytes } }))
            .collect();
        let apply = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": self.names.webhook },
            "webhooks": webhooks,
        });
        let params = PatchParams::apply(WEBHOOK_FIELD_MANAGER).force();
        let applied = self
            .webhooks
            .patch(&self.names.webhook, &params, &Patch::Apply(apply))
            .await;
        applied.map_err(api("setting caBundle"))?;
        tracing::info!(webhook = self.names.webhook, "caBundle published");
        Ok(())
    }
}

fn data_of(secret: &Secret) -> SecretData {
    secret.data.clone().unwrap_or_default()
}

fn carries(configuration: &MutatingWebhookConfiguration, bundle: &str) -> bool {
    let mut webhooks = configuration.webhooks.iter().flatten();
    webhooks.all(|webhook| {
        webhook
            .client_config
            .ca_bundle
            .as_ref()
            .is_some_and(|ca| ca.0 == bundle.as_bytes())
    })
}

fn api(what: &'static str) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |source| ReconcileError::Api {
        what,
        source: Box::new(source),
    }
}
