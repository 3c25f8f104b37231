//! The container of a member of etcd: on the host's network, with its data in a volume, and without a privilege. Pure.

use super::member::{Began, Member};
use crate::engine::{Chosen, ContainerSpec, File, HOST_NETWORK, Security, VolumeSpec};

/// The name of the container, and of its volume.
pub const NAME: &str = "evenkeel-etcd";
/// The label of the volume with the cluster whose data it has.
pub const CLUSTER: &str = "evenkeel.dev/etcd-cluster";
/// Where the volume is mounted.
pub const FOLDER: &str = "/evenkeel-etcd";
/// The user of the process; no image need know it.
const USER: (u64, u64) = (2379, 2379);
/// Its memory in bytes. The pages of its database, which the system can drop, count too.
const MEMORY: i64 = 1 << 30;
/// Limit of its database in bytes.
const QUOTA: i64 = 2 << 30;
/// Limit of its processes and threads.
const PROCESSES: i64 = 1024;
/// Seconds that it has to stop.
const GRACE: i64 = 10;

/// A member's certificate with its key, and the CA; as PEM.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// The certificate of the CA.
    pub ca: &'a str,
    /// The member's certificate: as a server, as a peer and as a client.
    pub certificate: &'a str,
    /// Its key.
    pub key: &'a str,
}

/// The container. `alone`: it forgets all other members, once.
pub fn container(member: &Member, alone: bool) -> ContainerSpec {
    let (client, peer) = (member.client_url(), member.peer_url());
    let state = match member.began {
        Began::Init => "new",
        Began::Join => "existing",
    };
    let file = |name: &str| format!("{FOLDER}/pki/{name}");
    let data = format!("{FOLDER}/data");
    let (quota, ca, certificate, key) = (QUOTA.to_string(), file("ca.crt"), file("etcd.crt"), file("etcd.key"));
    let options = [
        ("name", member.node.as_str()),
        ("data-dir", &data),
        ("listen-client-urls", &client),
        ("advertise-client-urls", &client),
        ("listen-peer-urls", &peer),
        ("initial-advertise-peer-urls", &peer),
        ("initial-cluster", &member.initial),
        ("initial-cluster-state", state),
        ("initial-cluster-token", &member.cluster),
        ("cert-file", &certificate),
        ("key-file", &key),
        ("trusted-ca-file", &ca),
        ("client-cert-auth", "true"),
        ("peer-cert-file", &certificate),
        ("peer-key-file", &key),
        ("peer-trusted-ca-file", &ca),
        ("peer-client-cert-auth", "true"),
        // For machines in one room.
        ("heartbeat-interval", "50"),
        ("election-timeout", "500"),
        // A node that comes back disturbs no leader.
        ("pre-vote", "true"),
        // The operators compact by themselves; this is for a time when none runs.
        ("auto-compaction-mode", "periodic"),
        ("auto-compaction-retention", "1h"),
        ("quota-backend-bytes", &quota),
        ("logger", "zap"),
    ];
    let options = options.into_iter().map(|(name, value)| format!("--{name}={value}"));
    let words =
        std::iter::once("etcd".to_owned()).chain(options).chain(alone.then(|| "--force-new-cluster".to_owned()));
    ContainerSpec {
        name: NAME.into(),
        hostname: NAME.into(),
        image: member.image.clone(),
        entrypoint: words.collect(),
        labels: member.owner().member_labels(&member.node),
        volumes: vec![(NAME.to_owned(), FOLDER.to_owned(), false)],
        network: HOST_NETWORK.into(),
        stop_timeout_seconds: GRACE,
        memory_bytes: Some(MEMORY),
        pids_limit: Some(PROCESSES),
        // One that is alone is started once, by hand.
        restart: !alone,
        user: Some(format!("{}:{}", USER.0, USER.1)),
        security: Security {
            cap_drop: vec!["ALL".into()],
            read_only: true,
            no_new_privileges: true,
            ..Default::default()
        },
        chosen: Chosen::default(),
        ..Default::default()
    }
}

/// The volume of the member's data.
pub fn volume(member: &Member) -> VolumeSpec {
    let labels = member.owner().member_labels(&member.node).into_iter();
    VolumeSpec { name: NAME.to_owned(), labels: labels.chain([(CLUSTER.to_owned(), member.cluster.clone())]).collect() }
}

/// The files in the volume that etcd reads; it reads its certificate anew for each connection.
pub fn files(files: &Files<'_>) -> Vec<File> {
    let folder = |path: &str| File { path: path.into(), mode: 0o700, owner: USER, bytes: Vec::new() };
    let file = |path: &str, text: &str| File { path: path.into(), mode: 0o600, owner: USER, bytes: text.into() };
    vec![
        folder("./"),
        folder("data/"),
        folder("pki/"),
        file("pki/ca.crt", files.ca),
        file("pki/etcd.key", files.key),
        file("pki/etcd.crt", files.certificate),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_listens_on_its_address_alone_with_tls_and_has_no_privilege() {
        let member = Member::first("one", [10, 0, 0, 1].into(), "image", "c0ffee");
        let spec = container(&member, false);
        let words = spec.entrypoint.join("\n");
        expect_test::expect![[r#"
            etcd
            --name=one
            --data-dir=/evenkeel-etcd/data
            --listen-client-urls=https://10.0.0.1:2379
            --advertise-client-urls=https://10.0.0.1:2379
            --listen-peer-urls=https://10.0.0.1:2380
            --initial-advertise-peer-urls=https://10.0.0.1:2380
            --initial-cluster=one=https://10.0.0.1:2380
            --initial-cluster-state=new
            --initial-cluster-token=c0ffee
            --cert-file=/evenkeel-etcd/pki/etcd.crt
            --key-file=/evenkeel-etcd/pki/etcd.key
            --trusted-ca-file=/evenkeel-etcd/pki/ca.crt
            --client-cert-auth=true
            --peer-cert-file=/evenkeel-etcd/pki/etcd.crt
            --peer-key-file=/evenkeel-etcd/pki/etcd.key
            --peer-trusted-ca-file=/evenkeel-etcd/pki/ca.crt
            --peer-client-cert-auth=true
            --heartbeat-interval=50
            --election-timeout=500
            --pre-vote=true
            --auto-compaction-mode=periodic
            --auto-compaction-retention=1h
            --quota-backend-bytes=2147483648
            --logger=zap"#]]
        .assert_eq(&words);
        assert_eq!((spec.drops(), spec.security.no_new_privileges), (vec!["ALL".to_owned()], true));
        assert!(spec.restart && spec.memory_bytes.is_some() && !spec.security.privileged);
        let alone = container(&member, true);
        assert!(alone.entrypoint.ends_with(&["--force-new-cluster".to_owned()]) && !alone.restart);
    }

    #[test]
    fn its_files_are_its_own() {
        let files = files(&Files { ca: "a", certificate: "b", key: "c" });
        assert!(files.iter().all(|file| file.mode & 0o077 == 0 && file.owner == USER));
    }
}
