//! Tests of whole configurations, as the engines read them.
#![allow(clippy::unwrap_used)]

use expect_test::expect;

use super::fixture::{WEB_AND_DATABASE, World};
use super::inputs::Inputs;
use super::render::{assemble, skeleton};
use super::routing;
use super::tests::{check, settled};

#[test]
fn a_configuration_of_haproxy_reads_like_this() {
    let mut world = settled();
    world.plan();
    let balancer = &world.observed.balancers["default.edge-1"];
    check(
        &balancer.files.known().unwrap().current.0,
        expect![[r#"
            # evenkeel d0d433c413ac
            global
                description d0d433c413ac
                log stdout format raw daemon notice
                maxconn 8000
                no strict-limits
                hard-stop-after 3600000ms
                tune.bufsize 40960
                tune.maxrewrite 4096
                tune.http.maxhdr 256
                ssl-default-bind-options ssl-min-ver TLSv1.2
                tune.ssl.default-dh-param 2048
                lua-load /etc/evenkeel/hold.lua

            defaults
                log global
                option dontlognull
                option redispatch 1
                retries 3
                timeout connect 2s
                timeout client 1m
                timeout server 1m

            frontend https
                mode http
                bind :443 ssl crt /etc/evenkeel/c0ffee.pem alpn h2,http/1.1
                timeout client 60000ms
                timeout http-request 10000ms
                timeout http-keep-alive 60000ms
                option idle-close-on-response
                http-request del-header Forwarded
                http-request set-header X-Forwarded-For %[src]
                http-request set-header X-Forwarded-Proto https
                http-request set-header X-Forwarded-Host %[req.hdr(host)]
                http-request set-header X-Forwarded-Port %[dst_port]
                default_backend web

            frontend http
                mode http
                bind :80
                timeout client 60000ms
                timeout http-request 10000ms
                timeout http-keep-alive 60000ms
                option idle-close-on-response
                http-request deny deny_status 400 unless { req.hdr(host) -m found }
                http-request redirect location 'https://%[req.hdr(host),regsub(:\d+$,)]%[pathq]' code 301 if METH_GET
                http-request redirect location 'https://%[req.hdr(host),regsub(:\d+$,)]%[pathq]' code 308

            frontend pg-rw
                mode tcp
                bind :5432
                timeout client 3600000ms
                option clitcpka
                clitcpka-idle 10s
                clitcpka-intvl 5s
                clitcpka-cnt 3
                tcp-request inspect-delay 10000ms
                tcp-request content lua.hold db 10000
                default_backend db

            frontend pg-ro
                mode tcp
                bind :5433
                timeout client 3600000ms
                option clitcpka
                clitcpka-idle 10s
                clitcpka-intvl 5s
                clitcpka-cnt 3
                default_backend ro

            frontend api
                mode http
                bind :8000
                timeout client 300000ms
                timeout http-request 10000ms
                timeout http-keep-alive 60000ms
                option idle-close-on-response
                http-request del-header Forwarded
                http-request set-header X-Forwarded-For %[src]
                http-request set-header X-Forwarded-Proto http
                http-request set-header X-Forwarded-Host %[req.hdr(host)]
                http-request set-header X-Forwarded-Port %[dst_port]
                default_backend fixed

            backend web
                mode http
                balance roundrobin
                timeout connect 2000ms
                timeout server 60000ms
                timeout queue 10000ms
                timeout check 2000ms
                timeout tunnel 3600000ms
                retry-on conn-failure empty-response
                http-request disable-l7-retry unless METH_GET
                option httpchk
                http-check send meth GET uri /ping ver HTTP/1.1 hdr Host localhost
                http-check expect status 200-399
                cookie evenkeel insert indirect nocache httponly dynamic
                dynamic-cookie-key 9d89c5bd4020
                # begin web
                server web-a 10.1.0.1:8052 check inter 1000ms fall 3 rise 2 observe layer4 error-limit 5 on-error mark-down
                server web-b 10.1.0.2:8052 check inter 1000ms fall 3 rise 2 observe layer4 error-limit 5 on-error mark-down
                # end web

            backend db
                mode tcp
                balance leastconn
                timeout connect 300ms
                timeout server 3600000ms
                timeout queue 10000ms
                option srvtcpka
                srvtcpka-idle 10s
                srvtcpka-intvl 5s
                srvtcpka-cnt 3
                retries 0
                no option redispatch
                # begin db
                server pg-1 10.2.0.1:5432 on-marked-down shutdown-sessions
                server pg-2 10.2.0.2:5432 on-marked-down shutdown-sessions disabled
                server pg-3 10.2.0.3:5432 on-marked-down shutdown-sessions disabled
                # end db

            backend ro
                mode tcp
                balance leastconn
                timeout connect 2000ms
                timeout server 3600000ms
                timeout queue 10000ms
                option srvtcpka
                srvtcpka-idle 10s
                srvtcpka-intvl 5s
                srvtcpka-cnt 3
                # begin ro
                server pg-1 10.2.0.1:5432 disabled
                server pg-2 10.2.0.2:5432
                server pg-3 10.2.0.3:5432
                # end ro

            backend fixed
                mode http
                balance leastconn
                timeout connect 2000ms
                timeout server 60000ms
                timeout queue 10000ms
                timeout tunnel 3600000ms
                retry-on conn-failure empty-response
                http-request disable-l7-retry unless METH_GET
                stick-table type ipv6 size 100k expire 1h
                stick on src
                default-server init-addr last,libc,none resolvers evenkeel-system
                server 10.9.0.1-80 10.9.0.1:80 check inter 2000ms fall 3 rise 2 observe layer4 error-limit 5 on-error mark-down
                server api.example.com-80 api.example.com:80 check inter 2000ms fall 3 rise 2 observe layer4 error-limit 5 on-error mark-down

            resolvers evenkeel-system
                parse-resolv-conf

            userlist evenkeel-stats
                user admin insecure-password secret

            frontend evenkeel-stats
                mode http
                bind :8404
                timeout client 10s
                http-request auth realm evenkeel unless { http_auth(evenkeel-stats) }
                stats enable
                stats uri /
                stats refresh 5s
        "#]],
    );
}

#[test]
fn a_configuration_of_nginx_reads_like_this() {
    let spec = WEB_AND_DATABASE.replace("replicas: 2", "engine: nginx").replace("stick: {by: cookie}, ", "");
    let mut world = World::new(&spec.replace("path: /ping, ", ""));
    world.pods(&[("web-a", 1, "ready"), ("web-b", 2, "")]);
    world.cluster(3, "Steady", "pg-1", &["pg-1 running", "pg-2 streaming"]);
    let mut d = world.object.status.clone().unwrap_or_default().decisions.unwrap_or_default();
    let backends = routing::resolve(&world.object, &world.observed, &mut d, world.now);
    let servers = backends
        .iter()
        .map(|one| (one.backend.name.clone(), routing::at_balancer(one, "local", false, &Default::default())))
        .collect();
    let certificates = [("cert".to_owned(), "c0ffee".to_owned())].into();
    let inputs = Inputs::new(&world.object, &certificates, Some("secret"));
    check(
        &assemble(&world.object.spec, &skeleton(&inputs), &servers).text,
        expect![[r##"
            # evenkeel 9086524b7c51
            daemon off;
            user root;
            worker_processes 2;
            worker_shutdown_timeout 30000ms;
            pid /run/evenkeel/nginx.pid;
            include /run/evenkeel/modules*.conf;
            error_log stderr notice;
            events {
                worker_connections 16000;
            }
            http {
                access_log off;
                server_tokens off;
                default_type text/plain;
                client_max_body_size 0;
                client_body_temp_path /etc/evenkeel/body;
                proxy_temp_path /etc/evenkeel/proxy;
                fastcgi_temp_path /etc/evenkeel/fastcgi;
                uwsgi_temp_path /etc/evenkeel/uwsgi;
                scgi_temp_path /etc/evenkeel/scgi;
                # One line of a head must fit into one buffer.
                large_client_header_buffers 2 33k;
                proxy_buffer_size 33k;
                proxy_buffers 8 8k;
                proxy_busy_buffers_size 48k;
                map $http_upgrade $connection_upgrade {
                    default upgrade;
                    '' '';
                }
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
                server {
                    listen unix:/run/evenkeel/admin.sock;
                    keepalive_timeout 1h;
                    keepalive_requests 1000000000;
                    location = /state {
                        # begin evenkeel-state
                        return 200 "hash 9086524b7c51\nbackend db\nserver db pg-1 10.2.0.1:5432 ready\nserver db pg-2 10.2.0.2:5432 maint\nbackend ro\nserver ro pg-1 10.2.0.1:5432 maint\nserver ro pg-2 10.2.0.2:5432 ready\nbackend web\nserver web web-a 10.1.0.1:8052 ready\n";
                        # end evenkeel-state
                    }
                    location = /connections {
                        stub_status;
                    }
                }
                upstream web {
                    zone web 256k;
                    # begin web
                    server 10.1.0.1:8052 max_fails=3 fail_timeout=1s;
                    # end web
                }
                upstream fixed {
                    zone fixed 256k;
                    hash $remote_addr consistent;
                    # 10.9.0.1-80
                    server 10.9.0.1:80 max_fails=3 fail_timeout=2s;
                    # api.example.com-80
                    server api.example.com:80 max_fails=3 fail_timeout=2s;
                }
                server {
                    listen 443 ssl http2;
                    ssl_certificate /etc/evenkeel/c0ffee.pem;
                    ssl_certificate_key /etc/evenkeel/c0ffee.pem;
                    client_header_timeout 10000ms;
                    client_body_timeout 60000ms;
                    send_timeout 60000ms;
                    keepalive_timeout 60000ms;
                    error_page 418 = @upgrade;
                    recursive_error_pages on;
                    location / {
                        if ($connection_upgrade) {
                            return 418;
                        }
                        proxy_pass http://web;
                        proxy_connect_timeout 2000ms;
                        proxy_read_timeout 60000ms;
                        proxy_send_timeout 60000ms;
                        proxy_next_upstream error timeout;
                        proxy_next_upstream_tries 3;
                    }
                    location @upgrade {
                        proxy_pass http://web;
                        proxy_connect_timeout 2000ms;
                        proxy_read_timeout 3600000ms;
                        proxy_send_timeout 3600000ms;
                        proxy_next_upstream error timeout;
                        proxy_next_upstream_tries 3;
                    }
                }
                server {
                    listen 80;
                    client_header_timeout 10000ms;
                    client_body_timeout 60000ms;
                    send_timeout 60000ms;
                    keepalive_timeout 60000ms;
                    set $redirect 308;
                    if ($request_method ~ ^(GET|HEAD)$) {
                        set $redirect 301;
                    }
                    if ($redirect = 301) {
                        return 301 https://$host$request_uri;
                    }
                    return 308 https://$host$request_uri;
                }
                server {
                    listen 8000;
                    client_header_timeout 10000ms;
                    client_body_timeout 300000ms;
                    send_timeout 300000ms;
                    keepalive_timeout 60000ms;
                    error_page 418 = @upgrade;
                    recursive_error_pages on;
                    location / {
                        if ($connection_upgrade) {
                            return 418;
                        }
                        proxy_pass http://fixed;
                        proxy_connect_timeout 2000ms;
                        proxy_read_timeout 60000ms;
                        proxy_send_timeout 60000ms;
                        proxy_next_upstream error timeout;
                        proxy_next_upstream_tries 3;
                    }
                    location @upgrade {
                        proxy_pass http://fixed;
                        proxy_connect_timeout 2000ms;
                        proxy_read_timeout 3600000ms;
                        proxy_send_timeout 3600000ms;
                        proxy_next_upstream error timeout;
                        proxy_next_upstream_tries 3;
                    }
                }
                server {
                    listen 8404;
                    auth_basic evenkeel;
                    auth_basic_user_file /etc/evenkeel/stats.htpasswd;
                    location / {
                        stub_status;
                    }
                }
            }
            stream {
                upstream db {
                    zone db 256k;
                    least_conn;
                    # begin db
                    server 10.2.0.1:5432 max_fails=0;
                    # end db
                }
                upstream ro {
                    zone ro 256k;
                    least_conn;
                    # begin ro
                    server 10.2.0.2:5432 max_fails=0;
                    # end ro
                }
                server {
                    listen 5432 so_keepalive=10s:5s:3;
                    proxy_pass db;
                    proxy_connect_timeout 300ms;
                    proxy_timeout 3600000ms;
                    proxy_socket_keepalive on;
                }
                server {
                    listen 5433 so_keepalive=10s:5s:3;
                    proxy_pass ro;
                    proxy_connect_timeout 2000ms;
                    proxy_timeout 3600000ms;
                    proxy_socket_keepalive on;
                }
            }
        "##]],
    );
}
