//! nginx: its dialect and its configuration as text. Pure.

use std::fmt::Write as _;

use super::dialect::{Dialect, Protocol};
use super::inputs::{HEAD_KIB, Inputs, KEEPALIVE, client_timeout, connect_timeout, server_timeout};
use super::names::{CONFIG_DIR, RUN_DIR, static_name};
use super::routing::{DesiredServer, Servers};
use super::seen::Admin;
use super::text::{HASH, hole, title};
use crate::api::load_balancer::{Backend, Balance, Frontend, Mode, StickBy, Target};

/// Name of the hole in the page that the admin socket serves.
const STATE: &str = "evenkeel-state";
/// A placeholder server that is down: nginx refuses an upstream without servers.
const NOBODY: &str = "server 127.0.0.1:9 down;";
/// Number of worker processes.
const WORKERS: usize = 2;
/// A buffer for the largest head, and the end of the line before it, in KiB.
const BUFFER_KIB: u64 = HEAD_KIB + 1;
/// Configuration before the first one is written: listens only to the operator.
pub const BOOTSTRAP: &str = r#"# evenkeel bootstrap
daemon off;
user root;
pid /run/evenkeel/nginx.pid;
error_log stderr notice;
events {}
http {
    access_log off;
    client_body_temp_path /etc/evenkeel/body;
    proxy_temp_path /etc/evenkeel/proxy;
    fastcgi_temp_path /etc/evenkeel/fastcgi;
    uwsgi_temp_path /etc/evenkeel/uwsgi;
    scgi_temp_path /etc/evenkeel/scgi;
    server {
        listen unix:/run/evenkeel/admin.sock;
        location = /state { return 200 "hash bootstrap\n"; }
    }
}
"#;

/// nginx 1.22 or newer.
pub static NGINX: Dialect = Dialect {
    name: "nginx",
    file: "nginx.conf",
    check: |file| format!("nginx -t -q -c {file}"),
    run: |file| format!("nginx -c {file}"),
    bootstrap: BOOTSTRAP,
    signal: "SIGHUP",
    // Its processes drop groups that they do not have, which needs this capability.
    capabilities: &["SETGID"],
    left_by_reload: WORKERS,
    protocol: Protocol::StatePage,
    live_servers: false,
    skeleton,
    server_lines,
    summary: |servers| Some((STATE, state_line(servers))),
    files: |inputs| inputs.stats_password.map(htpasswd).into_iter().collect(),
};

fn skeleton(inputs: &Inputs) -> String {
    let spec = inputs.spec;
    let mut text = title();
    let _ = write!(
        text,
        "daemon off;
user root;
worker_processes {WORKERS};
worker_shutdown_timeout {}ms;
pid {RUN_DIR}/nginx.pid;
include {RUN_DIR}/modules*.conf;
error_log stderr notice;
events {{
    worker_connections {};
}}
http {{
    access_log off;
    server_tokens off;
    default_type text/plain;
    client_max_body_size 0;
    client_body_temp_path {CONFIG_DIR}/body;
    proxy_temp_path {CONFIG_DIR}/proxy;
    fastcgi_temp_path {CONFIG_DIR}/fastcgi;
    uwsgi_temp_path {CONFIG_DIR}/uwsgi;
    scgi_temp_path {CONFIG_DIR}/scgi;
    # One line of a head must fit into one buffer.
    large_client_header_buffers 2 {BUFFER_KIB}k;
    proxy_buffer_size {BUFFER_KIB}k;
    proxy_buffers 8 8k;
    proxy_busy_buffers_size 48k;
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        '' '';
    }}
    # What a client says of itself is not believed.
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Forwarded '';
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host;
    proxy_set_header X-Forwarded-Port $server_port;
    ssl_protocols TLSv1.2 TLSv1.3;
    server {{
        listen unix:{RUN_DIR}/admin.sock;
        keepalive_timeout 1h;
        keepalive_requests 1000000000;
        location = /state {{
{}        }}
        location = /connections {{
            stub_status;
        }}
    }}
",
        spec.reload_timeout().as_millis(),
        // Each client connection needs one more connection to a server; the limit is divided between the processes.
        spec.max_connections.saturating_mul(2).max(64),
        hole("            ", STATE)
    );
    let of = |mode| spec.backends.iter().filter(move |backend| spec.mode_of(&backend.name) == Some(mode));
    of(Mode::Http).for_each(|backend| upstream(&mut text, backend));
    let frontends = |mode| spec.frontends.iter().filter(move |one| one.mode == mode);
    frontends(Mode::Http).for_each(|one| http_server(&mut text, inputs, one));
    if let (Some(stats), Some(_)) = (&spec.stats, inputs.stats_password) {
        let _ = write!(
            text,
            "    server {{
        listen {};
        auth_basic evenkeel;
        auth_basic_user_file {CONFIG_DIR}/stats.htpasswd;
        location / {{
            stub_status;
        }}
    }}
",
            stats.port
        );
    }
    text.push_str("}\n");
    if frontends(Mode::Tcp).next().is_some() {
        text.push_str("stream {\n");
        of(Mode::Tcp).for_each(|backend| upstream(&mut text, backend));
        frontends(Mode::Tcp).for_each(|one| tcp_server(&mut text, inputs, one));
        text.push_str("}\n");
    }
    text
}

/// The password file of the stats page: name and text.
fn htpasswd(password: &str) -> (&'static str, String) {
    ("stats.htpasswd", format!("admin:{{PLAIN}}{password}\n"))
}

fn upstream(text: &mut String, one: &Backend) {
    let _ = writeln!(text, "    upstream {} {{\n        zone {} 256k;", one.name, one.name);
    let by_source = one.stick.as_ref().is_some_and(|stick| stick.by == StickBy::Source);
    match one.balance {
        balance if balance == Some(Balance::Source) || by_source => {
            text.push_str("        hash $remote_addr consistent;\n")
        }
        Some(Balance::Leastconn) => text.push_str("        least_conn;\n"),
        None if one.is_database() => text.push_str("        least_conn;\n"),
        _ => {}
    }
    match one.target() {
        Some(Target::Servers(addresses)) => {
            for address in addresses {
                let _ = writeln!(text, "        # {}\n        server {address}{};", static_name(address), options(one));
            }
        }
        _ => text.push_str(&hole("        ", &one.name)),
    }
    text.push_str("    }\n");
}

/// Number of failures after which a server gets no requests for a while.
fn options(backend: &Backend) -> String {
    if backend.is_database() {
        return " max_fails=0".into();
    }
    let check = backend.health_check.clone().unwrap_or_default();
    // In whole seconds, unlike all other times.
    format!(" max_fails={} fail_timeout={}s", check.fall, check.interval.as_millis().div_ceil(1000).max(1))
}

/// The lines of a backend's servers.
fn server_lines(backend: &Backend, servers: &[DesiredServer]) -> Vec<String> {
    let mut lines: Vec<String> = servers
        .iter()
        .filter(|server| server.admin == Admin::Ready)
        .map(|server| format!("server {}:{}{};", server.address, server.port, options(backend)))
        .collect();
    if lines.is_empty() {
        lines.push(NOBODY.into());
    }
    lines
}

/// The answer of the admin socket: the hash and the servers of this very process.
fn state_line(servers: &Servers) -> String {
    let mut told = format!("hash {HASH}\\n");
    for (backend, servers) in servers {
        let _ = write!(told, "backend {backend}\\n");
        for server in servers {
            let state = if server.admin == Admin::Ready { "ready" } else { "maint" };
            let _ = write!(told, "server {backend} {} {}:{} {state}\\n", server.name, server.address, server.port);
        }
    }
    format!("return 200 \"{told}\";")
}

/// The TLS lines; `None` if the certificate does not exist.
fn tls(inputs: &Inputs, one: &Frontend) -> Option<String> {
    Some(match inputs.certificate_of(one) {
        None => String::new(),
        Some(file) => {
            let file = file?;
            format!("        ssl_certificate {file};\n        ssl_certificate_key {file};\n")
        }
    })
}

fn http_server(text: &mut String, inputs: &Inputs, one: &Frontend) {
    let Some(tls) = tls(inputs, one) else { return };
    let listen = if tls.is_empty() { "" } else { " ssl http2" };
    let client = client_timeout(one);
    let _ = write!(
        text,
        "    server {{
        listen {}{listen};
{tls}        client_header_timeout {}ms;
        client_body_timeout {client}ms;
        send_timeout {client}ms;
        keepalive_timeout {}ms;
",
        one.port,
        one.timeouts.request.as_millis(),
        one.timeouts.keep_alive.as_millis(),
    );
    if one.redirect_to_https {
        let port = inputs.redirect_port(one);
        let _ = write!(
            text,
            "        set $redirect 308;
        if ($request_method ~ ^(GET|HEAD)$) {{
            set $redirect 301;
        }}
        if ($redirect = 301) {{
            return 301 https://$host{port}$request_uri;
        }}
        return 308 https://$host{port}$request_uri;
    }}
"
        );
        return;
    }
    let Some(backend) = inputs.backend_of(one) else { return text.push_str("    }\n") };
    let server = server_timeout(backend, Mode::Http);
    let tunnel = backend.timeouts.tunnel.as_millis();
    let location = |name: &str, silence: u64| {
        format!(
            "        location {name} {{
            proxy_pass http://{};
            proxy_connect_timeout {}ms;
            proxy_read_timeout {silence}ms;
            proxy_send_timeout {silence}ms;
            proxy_next_upstream error timeout;
            proxy_next_upstream_tries 3;
        }}
",
            backend.name,
            connect_timeout(backend)
        )
    };
    // After an upgrade (WebSocket) the inactivity timeout is longer.
    text.push_str("        error_page 418 = @upgrade;\n        recursive_error_pages on;\n");
    text.push_str(&location("/", server).replace(
        "            proxy_pass",
        "            if ($connection_upgrade) {\n                return 418;\n            }\n            proxy_pass",
    ));
    text.push_str(&location("@upgrade", tunnel));
    text.push_str("    }\n");
}

fn tcp_server(text: &mut String, inputs: &Inputs, one: &Frontend) {
    let (Some(tls), Some(backend)) = (tls(inputs, one), inputs.backend_of(one)) else { return };
    let listen = if tls.is_empty() { "" } else { " ssl" };
    let (idle, interval, count) = KEEPALIVE;
    let _ = write!(
        text,
        "    server {{
        listen {}{listen} so_keepalive={idle}s:{interval}s:{count};
{tls}        proxy_pass {};
        proxy_connect_timeout {}ms;
        proxy_timeout {}ms;
        proxy_socket_keepalive on;
    }}
",
        one.port,
        backend.name,
        connect_timeout(backend),
        client_timeout(one).min(server_timeout(backend, Mode::Tcp)),
    );
}
