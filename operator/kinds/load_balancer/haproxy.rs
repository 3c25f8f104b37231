//! HAProxy: its dialect and its configuration as text. Pure.

use std::fmt::Write as _;

use super::dialect::{Dialect, Protocol};
use super::inputs::{HEAD_KIB, Inputs, KEEPALIVE, client_timeout, connect_timeout, server_timeout};
use super::names::{CONFIG_DIR, RUN_DIR, static_name};
use super::routing::DesiredServer;
use super::seen::Admin;
use super::text::{HASH, hash, hole, title};
use crate::api::load_balancer::{Backend, Balance, Frontend, HealthCheck, Mode, StickBy, Target, split_address};

/// Room in a buffer, in KiB, for what is added to the largest head: headers of its own, and its inner form.
const ADDED_KIB: u64 = 8;
/// Part of that room that a client's data never fills, in KiB.
const REWRITE_KIB: u64 = 4;
/// Most headers of a request or an answer.
const HEADERS: u32 = 256;
/// Failed connections in a row after which a server counts as down before its health check reports it.
const ERROR_LIMIT: u32 = 5;
/// Holds new clients of a database while it has no writer, so that they are not refused.
const HOLD: &str = r#"-- Written by Evenkeel: holds a new connection while its backend has no server, for `limit` ms.
core.register_action("hold", { "tcp-req" }, function(txn, backend, limit)
  local waited, longest = 0, tonumber(limit)
  while waited < longest and txn.f:nbsrv(backend) == 0 do
    core.msleep(10)
    waited = waited + 10
  end
end, 2)
"#;
/// Configuration before the first one is written: it listens on no port.
pub const BOOTSTRAP: &str = "# evenkeel bootstrap
global
    description bootstrap
frontend evenkeel-bootstrap
    bind unix@/run/evenkeel/bootstrap.sock
    timeout client 1s
";

/// HAProxy 2.6 or newer in master-worker mode.
pub static HAPROXY: Dialect = Dialect {
    name: "haproxy",
    file: "haproxy.cfg",
    check: |file| format!("haproxy -c -q -f {file}"),
    run: |file| format!("haproxy -W -db -S {RUN_DIR}/master.sock,mode,600 -f {file}"),
    bootstrap: BOOTSTRAP,
    signal: "SIGUSR2",
    capabilities: &[],
    left_by_reload: 1,
    protocol: Protocol::MasterSocket,
    live_servers: true,
    skeleton,
    server_lines: |backend, servers| servers.iter().map(|server| server_line(backend, server)).collect(),
    summary: |_| None,
    files: |inputs| if holds(inputs) { vec![("hold.lua", HOLD.to_owned())] } else { Vec::new() },
};

/// Whether some backend holds new clients while it has no writer.
fn holds(inputs: &Inputs) -> bool {
    inputs.spec.backends.iter().any(Backend::one_writer)
}

fn skeleton(inputs: &Inputs) -> String {
    let spec = inputs.spec;
    let mut text = title();
    let lua = if holds(inputs) { format!("    lua-load {CONFIG_DIR}/hold.lua\n") } else { String::new() };
    let _ = write!(
        text,
        "global
    description {HASH}
    log stdout format raw daemon notice
    maxconn {}
    no strict-limits
    hard-stop-after {}ms
    tune.bufsize {}
    tune.maxrewrite {}
    tune.http.maxhdr {HEADERS}
    ssl-default-bind-options ssl-min-ver TLSv1.2
    tune.ssl.default-dh-param 2048
{lua}
defaults
    log global
    option dontlognull
    option redispatch 1
    retries 3
    timeout connect 2s
    timeout client 1m
    timeout server 1m
",
        spec.max_connections,
        spec.reload_timeout().as_millis(),
        (HEAD_KIB + ADDED_KIB) << 10,
        REWRITE_KIB << 10,
    );
    for one in &spec.frontends {
        frontend(&mut text, inputs, one);
    }
    for one in &spec.backends {
        backend(&mut text, inputs, one);
    }
    if let (Some(stats), Some(password)) = (&spec.stats, inputs.stats_password) {
        let _ = write!(
            text,
            "
userlist evenkeel-stats
    user admin insecure-password {password}

frontend evenkeel-stats
    mode http
    bind :{}
    timeout client 10s
    http-request auth realm evenkeel unless {{ http_auth(evenkeel-stats) }}
    stats enable
    stats uri /
    stats refresh 5s
",
            stats.port
        );
    }
    text
}

fn frontend(text: &mut String, inputs: &Inputs, one: &Frontend) {
    let tls = match inputs.certificate_of(one) {
        Some(Some(file)) => {
            let alpn = if one.mode == Mode::Http { " alpn h2,http/1.1" } else { "" };
            format!(" ssl crt {file}{alpn}")
        }
        Some(None) => return,
        None => String::new(),
    };
    let _ = write!(text, "\nfrontend {}\n    mode {}\n    bind :{}{tls}\n", one.name, mode(one.mode), one.port);
    let _ = writeln!(text, "    timeout client {}ms", client_timeout(one));
    if one.mode == Mode::Http {
        let _ = writeln!(text, "    timeout http-request {}ms", one.timeouts.request.as_millis());
        let _ = writeln!(text, "    timeout http-keep-alive {}ms", one.timeouts.keep_alive.as_millis());
        // Before a process ends, a client gets `Connection: close` with its next answer, not a closed connection during
        // a request.
        text.push_str("    option idle-close-on-response\n");
    } else {
        text.push_str(&keepalive("cli"));
    }
    if one.redirect_to_https {
        let port = inputs.redirect_port(one);
        let location = format!("'https://%[req.hdr(host),regsub(:\\d+$,)]{port}%[pathq]'");
        let _ = writeln!(text, "    http-request deny deny_status 400 unless {{ req.hdr(host) -m found }}");
        let _ = writeln!(text, "    http-request redirect location {location} code 301 if METH_GET");
        let _ = writeln!(text, "    http-request redirect location {location} code 308");
        return;
    }
    if one.mode == Mode::Http {
        let proto = if tls.is_empty() { "http" } else { "https" };
        // A client's own statement about where its request comes from is not trusted.
        text.push_str("    http-request del-header Forwarded\n");
        let _ = writeln!(text, "    http-request set-header X-Forwarded-For %[src]");
        let _ = writeln!(text, "    http-request set-header X-Forwarded-Proto {proto}");
        let _ = writeln!(text, "    http-request set-header X-Forwarded-Host %[req.hdr(host)]");
        let _ = writeln!(text, "    http-request set-header X-Forwarded-Port %[dst_port]");
    }
    let Some(backend) = inputs.backend_of(one) else { return };
    if backend.one_writer() {
        let queue = backend.timeouts.queue.as_millis();
        let _ = writeln!(text, "    tcp-request inspect-delay {queue}ms");
        let _ = writeln!(text, "    tcp-request content lua.hold {} {queue}", backend.name);
    }
    let _ = writeln!(text, "    default_backend {}", backend.name);
}

/// Asks an idle peer whether it is still there, so that a session ends when its server or client vanished without a
/// word: a container that was killed, a network that was taken away.
fn keepalive(side: &str) -> String {
    let (idle, interval, count) = KEEPALIVE;
    let option = format!("{side}tcpka");
    format!(
        "    option {option}\n    {option}-idle {idle}s\n    {option}-intvl {interval}s\n    {option}-cnt {count}\n"
    )
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Http => "http",
        Mode::Tcp => "tcp",
    }
}

fn backend(text: &mut String, inputs: &Inputs, one: &Backend) {
    let spoken = inputs.spec.mode_of(&one.name).unwrap_or(Mode::Tcp);
    let balance = match one.balance {
        None if one.is_database() => "leastconn",
        None | Some(Balance::Roundrobin) => "roundrobin",
        Some(Balance::Leastconn) => "leastconn",
        Some(Balance::Source) => "source",
    };
    let _ = write!(text, "\nbackend {}\n    mode {}\n    balance {balance}\n", one.name, mode(spoken));
    if balance == "source" {
        // HAProxy adds and removes servers at run time only with this hash type.
        text.push_str("    hash-type consistent\n");
    }
    let timeouts = &one.timeouts;
    let _ = writeln!(text, "    timeout connect {}ms", connect_timeout(one));
    let _ = writeln!(text, "    timeout server {}ms", server_timeout(one, spoken));
    let _ = writeln!(text, "    timeout queue {}ms", timeouts.queue.as_millis());
    if let Some(check) = &one.health_check {
        let _ = writeln!(text, "    timeout check {}ms", check.timeout.as_millis());
    }
    if spoken == Mode::Http {
        let _ = writeln!(text, "    timeout tunnel {}ms", timeouts.tunnel.as_millis());
        // A GET may be retried on another server if the first one died while it handled the request.
        text.push_str("    retry-on conn-failure empty-response\n");
        text.push_str("    http-request disable-l7-retry unless METH_GET\n");
    } else {
        text.push_str(&keepalive("srv"));
    }
    if one.one_writer() {
        // Retrying a writer that does not answer does not help, and there is no other writer.
        text.push_str("    retries 0\n    no option redispatch\n");
    }
    if let Some(HealthCheck { path: Some(path), host, .. }) = &one.health_check {
        let host = host.as_deref().unwrap_or("localhost");
        text.push_str("    option httpchk\n");
        let _ = writeln!(text, "    http-check send meth GET uri {path} ver HTTP/1.1 hdr Host {host}");
        text.push_str("    http-check expect status 200-399\n");
    }
    match &one.stick {
        Some(stick) if stick.by == StickBy::Cookie => {
            let name = stick.cookie.as_deref().unwrap_or("evenkeel");
            let _ = writeln!(text, "    cookie {name} insert indirect nocache httponly dynamic");
            let _ = writeln!(text, "    dynamic-cookie-key {}", cookie_key(inputs, one));
        }
        Some(_) => text.push_str("    stick-table type ipv6 size 100k expire 1h\n    stick on src\n"),
        None => {}
    }
    if let Some(Target::Servers(addresses)) = one.target() {
        let names = addresses.iter().filter_map(|address| split_address(address));
        if names.clone().any(|(host, _)| host.parse::<std::net::Ipv4Addr>().is_err()) {
            text.push_str("    default-server init-addr last,libc,none resolvers evenkeel-system\n");
        }
        for (address, _) in addresses.iter().zip(names) {
            let _ = writeln!(text, "    server {} {address}{}", static_name(address), options(one));
        }
        if text.contains("resolvers evenkeel-system") && !text.contains("\nresolvers evenkeel-system\n") {
            text.push_str("\nresolvers evenkeel-system\n    parse-resolv-conf\n");
        }
        return;
    }
    text.push_str(&hole("    ", &one.name));
}

/// Key of a backend's cookies: a cookie identifies its server without showing the address.
pub fn cookie_key(inputs: &Inputs, backend: &Backend) -> String {
    hash(&format!("{}/{}/{}", inputs.uid, inputs.name, backend.name))
}

/// Options of every server of a backend, in the file and in the `add server` command.
pub fn options(backend: &Backend) -> String {
    if backend.one_writer() {
        return " on-marked-down shutdown-sessions".into();
    }
    // Their own kind checks them, and a database logs every connection that sends nothing.
    if backend.is_database() {
        return String::new();
    }
    let HealthCheck { interval, fall, rise, .. } = backend.health_check.clone().unwrap_or_default();
    format!(
        " check inter {}ms fall {fall} rise {rise} observe layer4 error-limit {ERROR_LIMIT} on-error mark-down",
        interval.as_millis()
    )
}

/// The line of a server in the file. A server that gets no connections now is `disabled`, so it gets none after a
/// restart.
fn server_line(backend: &Backend, server: &DesiredServer) -> String {
    let disabled = if server.admin == Admin::Ready { "" } else { " disabled" };
    format!("server {} {}:{}{}{disabled}", server.name, server.address, server.port, options(backend))
}
