//! Opens the client library for a bucket or a directory: time-outs, retries, signatures and trusted certificates.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};

use crate::archive::access::{S3, Store as Kind};
use crate::archive::store::failure::{Error, Kind as Failure, Speaker};
use crate::archive::store::ranges::Ranges;

/// Time-out of a connection to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// Time-out of one request of the patient client, until its answer begins: a part of an upload over a slow link.
const PART: Duration = Duration::from_secs(120);

/// The clients of one store.
pub(crate) struct Opened {
    /// Gives up soon: its callers have loops of their own.
    pub(crate) quick: Arc<dyn ObjectStore>,
    /// Tries for minutes: for the parts of what takes hours.
    pub(crate) patient: Arc<dyn ObjectStore>,
    /// What every key begins with.
    pub(crate) prefix: String,
    /// It keeps metadata, and compares before it replaces.
    pub(crate) is_bucket: bool,
    pub(crate) speaker: Speaker,
}

pub(crate) fn open(store: &Kind) -> Result<Opened, Error> {
    match store {
        Kind::S3(s3) => open_bucket(s3),
        Kind::Directory { path } => open_directory(path),
    }
}

fn open_directory(path: &str) -> Result<Opened, Error> {
    let speaker = Speaker { store: format!("directory {path}"), secrets: Vec::new() };
    let doing = "opening the store";
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(speaker.fail(Failure::NoBucket, doing, "it is no directory")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(speaker.fail(Failure::NoBucket, doing, "the directory does not exist"));
        }
        Err(error) => return Err(speaker.fail(Failure::Unreachable, doing, error.to_string())),
    }
    let opened = LocalFileSystem::new_with_prefix(path).map_err(|error| speaker.explain(doing, &error))?;
    let opened: Arc<dyn ObjectStore> = Arc::new(opened.with_fsync(true));
    Ok(Opened { quick: opened.clone(), patient: opened, prefix: String::new(), is_bucket: false, speaker })
}

fn open_bucket(s3: &S3) -> Result<Opened, Error> {
    // The library has no default for the cryptography of TLS. It may be set already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let endpoint = s3.endpoint.as_deref().map(|endpoint| endpoint.trim_end_matches('/'));
    let place = endpoint.map_or_else(|| format!("AWS {}", s3.region), str::to_owned);
    let secrets = [Some(s3.secret_access_key.clone()), s3.session_token.clone(), Some(s3.access_key_id.clone())];
    let speaker =
        Speaker { store: format!("bucket {} at {place}", s3.bucket), secrets: secrets.into_iter().flatten().collect() };
    let client = |retry| {
        let opened = builder(s3, endpoint, &speaker)?.with_retry(retry).build();
        let opened: AmazonS3 =
            opened.map_err(|error| Error { kind: Failure::Config, ..speaker.explain("opening the store", &error) })?;
        Ok(Arc::new(opened) as Arc<dyn ObjectStore>)
    };
    let quick = RetryConfig { max_retries: 1, retry_timeout: Duration::from_secs(10), ..RetryConfig::default() };
    let patient = RetryConfig {
        max_retries: 20,
        retry_timeout: Duration::from_secs(300),
        backoff: BackoffConfig { init_backoff: Duration::from_millis(200), ..BackoffConfig::default() },
    };
    Ok(Opened {
        quick: client(quick)?,
        patient: client(patient)?,
        prefix: s3.prefix.clone(),
        is_bucket: true,
        speaker: speaker.clone(),
    })
}

fn builder(s3: &S3, endpoint: Option<&str>, speaker: &Speaker) -> Result<AmazonS3Builder, Error> {
    let wrong = |said: String| speaker.fail(Failure::Config, "opening the store", said);
    let mut options = ClientOptions::new()
        .with_allow_http(true)
        .with_connect_timeout(CONNECT)
        .with_timeout_disabled()
        .with_read_timeout(PART)
        // There are none in many images, and an image's owner does not decide whom the supervisor trusts.
        .with_no_system_certificates(true);
    match &s3.ca {
        Some(pem) => {
            let bundle = Certificate::from_pem_bundle(pem.as_bytes());
            let bundle = bundle.map_err(|error| wrong(format!("its CA certificates: {error}")))?;
            if bundle.is_empty() {
                return Err(wrong("its CA has no certificate in PEM form".to_owned()));
            }
            for certificate in bundle {
                options = options.with_root_certificate(certificate);
            }
        }
        None => {
            for root in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
                let root = Certificate::from_der(root).map_err(|error| wrong(error.to_string()))?;
                options = options.with_root_certificate(root);
            }
        }
    }
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&s3.bucket)
        .with_region(&s3.region)
        .with_access_key_id(&s3.access_key_id)
        .with_secret_access_key(&s3.secret_access_key)
        .with_virtual_hosted_style_request(!s3.path_style)
        // A hash of the whole content for each signature: TLS makes it needless.
        .with_unsigned_payload(endpoint.is_none_or(|endpoint| endpoint.starts_with("https://")))
        // Some stores do not know the request that deletes many objects.
        .with_disable_bulk_delete(true)
        .with_client_options(options)
        .with_http_connector(Ranges::default());
    if s3.sha256 {
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    if let Some(token) = &s3.session_token {
        builder = builder.with_token(token);
    }
    if let Some(endpoint) = endpoint {
        let (scheme, host) = endpoint
            .split_once("://")
            .filter(|(scheme, host)| ["http", "https"].contains(scheme) && !host.is_empty())
            .ok_or_else(|| wrong("its endpoint does not begin with http:// or https://".to_owned()))?;
        builder = builder.with_endpoint(match s3.path_style {
            true => endpoint.to_owned(),
            false => format!("{scheme}://{}.{host}", s3.bucket),
        });
    }
    Ok(builder)
}
