//! The text of a kubeconfig: this operator's server first, and those of the other operators over the same store. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::api::core::DEFAULT_NAMESPACE;

/// The name of the cluster and context of the operator that writes a kubeconfig. Those of a node are `evenkeel-NODE`.
const NAME: &str = "evenkeel";

/// The addresses of the operators over one store by the names of their nodes, with this one's.
pub type Nodes = BTreeMap<String, String>;

/// The servers of a kubeconfig.
pub struct Servers<'a> {
    /// The certificate of the CA that all of them have.
    pub ca: &'a str,
    /// Where this operator listens.
    pub listen: SocketAddr,
    /// The operators over its store.
    pub nodes: &'a Nodes,
}

impl Servers<'_> {
    /// A kubeconfig of this user. A single operator is one cluster and one context; of several, each has a further one.
    pub fn kubeconfig(&self, name: &str, user: &Value) -> Value {
        let ip = match self.listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let own = (NAME.to_owned(), SocketAddr::new(ip, self.listen.port()).to_string());
        let nodes = self.nodes.iter().filter(|_| self.nodes.len() > 1);
        let nodes = nodes.map(|(node, address)| (format!("{NAME}-{node}"), address.clone()));
        let servers: Vec<_> = std::iter::once(own).chain(nodes).collect();
        let cluster = |(name, address): &(String, String)| {
            let cluster = json!({
                "server": format!("https://{address}"), "certificate-authority-data": STANDARD.encode(self.ca),
            });
            json!({"name": name, "cluster": cluster})
        };
        let context = |(context, _): &(String, String)| {
            let of = json!({"cluster": context, "user": name, "namespace": DEFAULT_NAMESPACE});
            json!({"name": context, "context": of})
        };
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": servers.iter().map(cluster).collect::<Vec<_>>(),
            "users": [{"name": name, "user": user}],
            "contexts": servers.iter().map(context).collect::<Vec<_>>(),
            "current-context": NAME,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn told(nodes: &[(&str, &str)]) -> String {
        let nodes = nodes.iter().map(|(name, address)| ((*name).to_owned(), (*address).to_owned())).collect();
        let servers = Servers { ca: "CA", listen: "0.0.0.0:7443".parse().unwrap(), nodes: &nodes };
        let made = servers.kubeconfig("admin", &json!({"token": "t"}));
        let clusters = made["clusters"].as_array().unwrap().iter();
        let all = clusters.zip(made["contexts"].as_array().unwrap());
        let one = |(cluster, context): (&Value, &Value)| {
            assert_eq!((&cluster["name"], &context["context"]["user"]), (&context["name"], &"admin".into()));
            format!("{}={}", cluster["name"].as_str().unwrap(), cluster["cluster"]["server"].as_str().unwrap())
        };
        all.map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_operator_of_several_has_a_context_and_a_single_one_has_one_alone() {
        assert_eq!(told(&[]), "evenkeel=https://127.0.0.1:7443");
        assert_eq!(told(&[("one", "10.0.0.1:7443")]), "evenkeel=https://127.0.0.1:7443");
        assert_eq!(
            told(&[("one", "10.0.0.1:7443"), ("two", "10.0.0.2:7443")]),
            "evenkeel=https://127.0.0.1:7443 evenkeel-one=https://10.0.0.1:7443 evenkeel-two=https://10.0.0.2:7443"
        );
    }
}
