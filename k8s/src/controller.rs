//! The controller: everything wired, started, watched and stopped.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::StreamExt;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, watch},
    time::Instant,
};

use crate::{
    certs::{CertificateReconciler, MaterialError, Names, Policy},
    cluster::{ClusterView, native_sidecars},
    config::{Config, Settings},
    events::Events,
    lease::{self, Claim},
    metrics::Metrics,
    serve::{App, Certificate, ClientAuthority, serve_admin, serve_admission},
    text::duration,
};

/// Who makes the webhook's certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Certificates {
    /// flowcar does, and sets caBundle.
    Own,
    /// Another program, such as cert-manager, writes the Secret and sets caBundle.
    External,
}

/// The controller's command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The configuration of injection, in YAML; the defaults hold where it is left out.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The controller's own namespace.
    #[arg(long, env = "FLOWCAR_NAMESPACE", default_value = "flowcar-system")]
    pub namespace: String,
    /// This replica's name in the Lease and in Events.
    #[arg(long, env = "FLOWCAR_REPLICA", default_value_t = format!("flowcar-controller-{}", std::process::id()))]
    pub replica: String,
    /// Where admission is served.
    #[arg(long, default_value = "[::]:8443")]
    pub listen: SocketAddr,
    /// Where metrics and health are served.
    #[arg(long, default_value = "[::]:8080")]
    pub admin_listen: SocketAddr,
    /// The Secret of the certificates.
    #[arg(long, default_value = "flowcar-webhook-tls")]
    pub secret: String,
    /// The Secret of the authorities' keys, which only the leader reads.
    #[arg(long, default_value = "flowcar-webhook-ca")]
    pub keys: String,
    /// Detect pods that the webhook did not see, which needs the right to list all pods. Without it, pods that no
    /// workload of Kubernetes' own kinds has made get no Events, as their existence cannot be verified.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub detect_missed: bool,
    /// The MutatingWebhookConfiguration.
    #[arg(long, default_value = "flowcar")]
    pub webhook_configuration: String,
    /// The Lease that one replica holds.
    #[arg(long, default_value = "flowcar-controller")]
    pub lease: String,
    /// Names and addresses that the webhook is called by.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "flowcar-webhook.flowcar-system.svc"
    )]
    pub names: Vec<String>,
    /// Who makes the certificates.
    #[arg(long, value_enum, default_value = "own")]
    pub certificates: Certificates,
    /// How long an authority lives.
    #[arg(long, value_parser = duration, default_value = "8760h")]
    pub ca_lifetime: Duration,
    /// How long a serving certificate lives.
    #[arg(long, value_parser = duration, default_value = "720h")]
    pub leaf_lifetime: Duration,
    /// How long every API server may take to see a new authority.
    #[arg(long, value_parser = duration, default_value = "10m")]
    pub settle: Duration,
    /// How long the API server waits for an answer, as the MutatingWebhookConfiguration sets it (timeoutSeconds).
    #[arg(long, value_parser = duration, default_value = "5s")]
    pub timeout: Duration,
    /// The authorities, in PEM, of the certificate that the API server shows as a client; whoever shows none is
    /// turned away. Where it is left out, anyone may ask, and only objects that exist get Events.
    #[arg(long)]
    pub client_ca: Option<PathBuf>,
    /// Who may ask, by a name in such a certificate; any name where it is left out.
    #[arg(long, value_delimiter = ',', requires = "client_ca")]
    pub client_names: Vec<String>,
    /// How long to go on accepting after a request to stop, until every API server knows.
    #[arg(long, value_parser = duration, default_value = "5s")]
    pub drain_delay: Duration,
    /// How long calls in progress may take after that.
    #[arg(long, value_parser = duration, default_value = "10s")]
    pub drain_deadline: Duration,
}

/// Runs until `stop` completes, then drains.
///
/// # Errors
/// If the configuration is wrong, an address is taken, or the API server cannot be reached at the start.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    crate::descriptors::raise_limit();
    let settings = read_settings(&options)?;
    let certificate = read_client_authority(&options)?;
    let client = Client::try_default()
        .await
        .context("no way to the API server: neither a service account nor a kubeconfig")?;
    let native = native_sidecars(&client, settings.config.native_sidecar)
        .await
        .context("asking the API server for its version")?;
    let admission = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("listening on {}", options.listen))?;
    let admin = TcpListener::bind(options.admin_listen)
        .await
        .with_context(|| format!("listening on {}", options.admin_listen))?;
    let (cluster, namespaces) = ClusterView::new(client.clone(), &options.namespace, native);
    let metrics = Metrics::default();
    let (events, publisher) = Events::new(client.clone(), options.replica.clone(), metrics.clone());
    let (draining, drained) = watch::channel(false);
    let (stopping, stopped) = watch::channel(false);
    let app = Arc::new(App {
        settings,
        cluster,
        events,
        metrics,
        certificate,
        draining: drained,
        large: Semaphore::new(1),
        timeout: options.timeout,
    });
    tracing::info!(address = %options.listen, native_sidecars = native, config = app.settings.hash, "flowcar-controller starts");
    let changed = Arc::new(Notify::new());
    let mut background = tokio::task::JoinSet::new();
    background.spawn(namespaces);
    background.spawn(publisher);
    background.spawn(serve_admin(admin, app.clone()));
    background.spawn(watch_secret(
        client.clone(),
        options.clone(),
        app.clone(),
        changed.clone(),
    ));
    background.spawn(watch_webhook(
        client.clone(),
        options.clone(),
        changed.clone(),
    ));
    let leading = tokio::spawn(lead(
        client,
        options.clone(),
        app.clone(),
        changed,
        stopped.clone(),
    ));
    let serving = tokio::spawn(serve_admission(
        admission,
        app,
        stopped,
        options.drain_deadline,
    ));

    stop.await;
    tracing::info!("stopping: no longer ready, still serving");
    draining.send_replace(true);
    tokio::time::sleep(options.drain_delay).await;
    stopping.send_replace(true);
    serving.await.context("the server ended abnormally")?;
    leading.await.context("the Lease's task ended abnormally")?;
    background.shutdown().await;
    Ok(())
}

fn read_settings(options: &Options) -> anyhow::Result<Settings> {
    let Some(path) = &options.config else {
        return Ok(Settings::default());
    };
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Config::parse(&text).with_context(|| format!("in {}", path.display()))
}

fn read_client_authority(options: &Options) -> anyhow::Result<Certificate> {
    let Some(path) = &options.client_ca else {
        return Ok(Certificate::default());
    };
    let pem = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let authority = ClientAuthority::read(&pem, options.client_names.clone())
        .with_context(|| format!("in {}", path.display()))?;
    Ok(Certificate::for_clients_of(authority))
}

/// Takes every version of the Secret into use.
async fn watch_secret(client: Client, options: Options, app: Arc<App>, changed: Arc<Notify>) {
    let secrets: Api<Secret> = Api::namespaced(client, &options.namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", options.secret));
    let mut secrets = std::pin::pin!(watcher(secrets, config).default_backoff());
    while let Some(event) = secrets.next().await {
        match event {
            Ok(watcher::Event::InitApply(secret) | watcher::Event::Apply(secret)) => {
                match app.certificate.load(&secret.data.unwrap_or_default()) {
                    // As it is installed: the leader fills it.
                    Err(MaterialError::Missing(_)) if !app.certificate.is_loaded() => {}
                    Ok(ends) => app.metrics.certificate(ends),
                    Err(error) => {
                        tracing::warn!(%error, "the Secret's certificate is not taken into use")
                    }
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "watching the Secret"),
        }
        changed.notify_one();
    }
}

async fn watch_webhook(client: Client, options: Options, changed: Arc<Notify>) {
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client);
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={}", options.webhook_configuration));
    let mut webhooks = std::pin::pin!(watcher(webhooks, config).default_backoff());
    while let Some(event) = webhooks.next().await {
        if let Err(error) = event {
            tracing::warn!(%error, "watching the MutatingWebhookConfiguration");
        }
        changed.notify_one();
    }
}

/// Holds the Lease whenever it can be had, and does meanwhile what one replica does for all.
async fn lead(
    client: Client,
    options: Options,
    app: Arc<App>,
    changed: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    let mut claim = Claim::new(
        &client,
        &options.namespace,
        &options.lease,
        &options.replica,
    );
    let policy = Policy {
        names: options.names.clone(),
        ca_lifetime: options.ca_lifetime,
        leaf_lifetime: options.leaf_lifetime,
        settle: options.settle,
    };
    let mut reconciler = (options.certificates == Certificates::Own).then(|| {
        let names = Names {
            secret: options.secret.clone(),
            keys: options.keys.clone(),
            webhook: options.webhook_configuration.clone(),
        };
        CertificateReconciler::new(&client, &options.namespace, names, policy)
    });
    let mut detector: Option<tokio::task::AbortHandle> = None;
    let mut held: Option<Instant> = None;
    let mut renew = Instant::now();
    let mut due = Instant::now();
    while !*stop.borrow() {
        if Instant::now() >= renew {
            renew = Instant::now() + lease::PERIOD;
            match claim.hold().await {
                Ok(true) => held = Some(Instant::now()),
                Ok(false) => held = None,
                Err(error) => tracing::warn!(%error, "the Lease could not be renewed"),
            }
            held = held.filter(|at| at.elapsed() < lease::DURATION);
            app.metrics.leader.set(i64::from(held.is_some()));
        }
        match (held.is_some(), &detector) {
            (true, None) if options.detect_missed => {
                let app = app.clone();
                let watch = crate::detect::watch(
                    client.clone(),
                    app.cluster.clone(),
                    app.settings.clone(),
                    app.events.clone(),
                    app.metrics.clone(),
                );
                detector = Some(tokio::spawn(watch).abort_handle());
            }
            (false, Some(running)) => {
                running.abort();
                detector = None;
                app.metrics.pods_missed.set(0);
            }
            _ => {}
        }
        if let Some(reconciler) = reconciler
            .as_mut()
            .filter(|_| held.is_some() && Instant::now() >= due)
        {
            due = Instant::now() + reconcile(reconciler, &app.metrics).await;
        }
        tokio::select! {
            () = changed.notified() => due = Instant::now(),
            () = tokio::time::sleep_until(if held.is_some() { renew.min(due) } else { renew }) => {}
            _ = stop.changed() => {}
        }
    }
    detector.inspect(tokio::task::AbortHandle::abort);
    if held.is_some()
        && let Err(error) = claim.release().await
    {
        tracing::warn!(%error, "the Lease could not be released");
    }
}

/// Reconciles once; how long to wait until the next time.
async fn reconcile(reconciler: &mut CertificateReconciler, metrics: &Metrics) -> Duration {
    match reconciler.reconcile().await {
        // At least a second, as certificates count in seconds.
        Ok(wait) => wait.clamp(Duration::from_secs(1), Duration::from_secs(3600)),
        Err(error) => {
            metrics.reconcile_errors.inc();
            tracing::warn!(%error, "certificates could not be renewed or published; trying again");
            Duration::from_secs(1)
        }
    }
}
