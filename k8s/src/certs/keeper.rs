//! Keeps the Secret and the webhook's `caBundle` as they should be.

use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;

use super::material::{Material, MaterialError};
use super::rotation::{Policy, advance};

/// The field manager of `caBundle`, and of nothing else.
pub const WEBHOOK_FIELD_MANAGER: &str = "flowcar-controller";

/// Keeps certificates while its replica holds the Lease.
pub struct Keeper {
    secrets: Api<Secret>,
    webhooks: Api<MutatingWebhookConfiguration>,
    secret_name: String,
    webhook_name: String,
    policy: Policy,
    /// What the Secret held last, so that deleting it costs no call.
    last: Option<Material>,
}

/// Why certificates are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The API server refused or did not answer.
    #[error("{what}: {source}; the controller's RBAC allows exactly this object by name")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// See [`MaterialError`].
    #[error(transparent)]
    Material(#[from] MaterialError),
}

// === impl Keeper ===

impl Keeper {
    /// A keeper of this Secret and this MutatingWebhookConfiguration.
    #[must_use]
    pub fn new(
        client: &kube::Client,
        namespace: &str,
        secret: &str,
        webhook: &str,
        policy: Policy,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            webhooks: Api::all(client.clone()),
            secret_name: secret.to_owned(),
            webhook_name: webhook.to_owned(),
            policy,
            last: None,
        }
    }

    /// Does all that is due, and says for how long nothing will be.
    ///
    /// # Errors
    /// See [`KeeperError`]; a conflict with another writer is one too, and is gone at the next call.
    pub async fn reconcile(&mut self) -> Result<Duration, KeeperError> {
        let stored = self
            .secrets
            .get_opt(&self.secret_name)
            .await
            .map_err(api("reading the Secret"))?;
        let readable = stored.as_ref().and_then(|secret| {
            Material::from_secret(&secret.data.clone().unwrap_or_default())
                .inspect_err(|error| tracing::warn!(%error, "the certificates are made anew"))
                .ok()
        });
        let was_stored = readable.is_some();
        let current = readable.or_else(|| self.last.clone());
        let published = match &current {
            Some(material) => self.is_published(&material.bundle()).await?,
            None => false,
        };
        let step = advance(current, SystemTime::now(), &self.policy, published)?;
        if step.changed || !was_stored {
            self.store(stored, &step.material).await?;
        }
        self.last = Some(step.material.clone());
        self.publish(&step.material.bundle()).await?;
        Ok(step
            .next
            .duration_since(SystemTime::now())
            .unwrap_or_default())
    }

    /// Writes under the version that was read: of two writers one gets a conflict and reads again.
    async fn store(&self, stored: Option<Secret>, material: &Material) -> Result<(), KeeperError> {
        let data = Some(material.to_secret());
        match stored {
            Some(secret) => {
                let secret = Secret { data, ..secret };
                let replaced = self
                    .secrets
                    .replace(&self.secret_name, &PostParams::default(), &secret)
                    .await;
                replaced.map_err(api("writing the Secret"))?;
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.secret_name.clone()),
                    ..ObjectMeta::default()
                };
                let secret = Secret {
                    metadata,
                    data,
                    type_: Some("kubernetes.io/tls".to_owned()),
                    ..Secret::default()
                };
                self.secrets
                    .create(&PostParams::default(), &secret)
                    .await
                    .map_err(api("creating the Secret"))?;
            }
        }
        tracing::info!(secret = self.secret_name, "certificates written");
        Ok(())
    }

    async fn configuration(&self) -> Result<MutatingWebhookConfiguration, KeeperError> {
        self.webhooks
            .get(&self.webhook_name)
            .await
            .map_err(api("reading the MutatingWebhookConfiguration"))
    }

    async fn is_published(&self, bundle: &str) -> Result<bool, KeeperError> {
        Ok(carries(&self.configuration().await?, bundle))
    }

    /// Sets `caBundle`, and only it, by server-side apply.
    async fn publish(&self, bundle: &str) -> Result<(), KeeperError> {
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
            "metadata": { "name": self.webhook_name },
            "webhooks": webhooks,
        });
        let params = PatchParams::apply(WEBHOOK_FIELD_MANAGER).force();
        let applied = self
            .webhooks
            .patch(&self.webhook_name, &params, &Patch::Apply(apply))
            .await;
        applied.map_err(api("setting caBundle"))?;
        tracing::info!(webhook = self.webhook_name, "caBundle published");
        Ok(())
    }
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

fn api(what: &'static str) -> impl FnOnce(kube::Error) -> KeeperError {
    move |source| KeeperError::Api {
        what,
        source: Box::new(source),
    }
}
