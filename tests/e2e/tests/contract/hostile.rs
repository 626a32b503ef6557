//! Hostile bytes. None of them causes a server error, and none of them stops the server.

use std::iter;

use reqwest::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use axum_refresh_e2e::demo::{COOKIE, Demo, credentials};

/// Header values that are legal on the wire and meaningless.
fn hostile_values() -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> = [
        &b""[..],
        b" ",
        b"\xff\xfe\x80",
        b"\xc3\x28",
        b"\xf0\x9f\x92\xa5",
        b"\"\"",
        b"\"",
        b"=",
        b";",
        b",",
        b", ,, ,",
        b"%00%ff%",
        b"\\u0000",
        b"' OR 1=1 --",
        b"<script>alert(1)</script>",
        b"${jndi:ldap://127.0.0.1/x}",
        b"../../../../etc/passwd",
        b"-1",
        b"18446744073709551616",
        b"NaN",
        b"{\"a\":1}",
        b"\t\ttabs\t",
    ]
    .map(<[u8]>::to_vec)
    .into();
    values.push(b"A".repeat(16_000));
    values.push(b"a,".repeat(8_000));
    values.push(b"1.1.1.1, ".repeat(1_500));
    values.push([b"[".repeat(2_000), b"]".repeat(2_000)].concat());
    values.extend(random_values(150));
    values
}

/// Random bytes that are legal in a header, the same in every run.
fn random_values(count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    iter::repeat_with(move || {
        let length = next() % 160;
        (0..length)
            .map(|_| next().to_le_bytes()[3])
            .filter(|&byte| byte == b'\t' || (byte >= b' ' && byte != 127))
            .collect()
    })
    .take(count)
}

/// Sends a request with one hostile header and returns the status of the response, if any.
async fn status(demo: &Demo, line: &str, headers: &str, name: &str, value: &[u8]) -> Option<u16> {
    let head = format!("{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}{name}: ");
    let answer = demo.raw(&[head.as_bytes(), value, b"\r\n\r\n"].concat()).await?;
    Some(answer.status)
}

/// Sends every hostile value of one header; only the `expected` statuses are allowed.
async fn only_leads_to(demo: &Demo, line: &str, headers: &str, name: &str, prefix: &[u8], expected: &[u16]) {
    for value in hostile_values() {
        let value = [prefix, &value].concat();
        let status = status(demo, line, headers, name, &value).await;
        let shown = String::from_utf8_lossy(&value[..value.len().min(200)]).into_owned();
        assert!(status.is_some_and(|status| expected.contains(&status)), "{line} {name}: {shown} => {status:?}");
    }
    demo.is_alive().await;
}

#[tokio::test]
async fn a_hostile_refresh_cookie_is_unauthorized() {
    let demo = Demo::new().await;
    let prefix = format!("{COOKIE}=");
    only_leads_to(&demo, "POST /auth/refresh", "", "Cookie", prefix.as_bytes(), &[401]).await;
}

#[tokio::test]
async fn a_hostile_cookie_header_is_unauthorized() {
    let demo = Demo::new().await;
    only_leads_to(&demo, "POST /auth/refresh", "", "Cookie", b"", &[401]).await;
}

#[tokio::test]
async fn a_logout_with_a_hostile_refresh_cookie_succeeds() {
    let demo = Demo::new().await;
    let prefix = format!("{COOKIE}=");
    only_leads_to(&demo, "POST /auth/logout", "", "Cookie", prefix.as_bytes(), &[204]).await;
}

#[tokio::test]
async fn a_hostile_cookie_before_a_valid_one_does_not_hide_it() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    for value in [&b"\xff\xfe\x80"[..], b"\"", b"=", b"\"unclosed", b"%00%ff%", b"\xf0\x9f\x92\xa5"] {
        let cookies = [format!("{COOKIE}=").as_bytes(), value, format!("; {COOKIE}={token}").as_bytes()].concat();
        let status = status(&demo, "POST /auth/refresh", "", "Cookie", &cookies).await;
        assert_eq!(status, Some(200), "{}", String::from_utf8_lossy(value));
    }
}

#[tokio::test]
async fn a_hostile_authorization_header_is_unauthorized() {
    let demo = Demo::new().await;
    only_leads_to(&demo, "GET /me", "", "Authorization", b"", &[401]).await;
    only_leads_to(&demo, "GET /me", "", "Authorization", b"Bearer ", &[401]).await;
    only_leads_to(&demo, "GET /auth/sessions", "", "Authorization", b"Bearer ", &[401]).await;
}

#[tokio::test]
async fn a_hostile_forwarding_header_does_not_change_the_response() {
    let demo = Demo::start(&[("TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let browser = demo.logged_in("alice").await;
    let cookie = format!("Cookie: {COOKIE}={}\r\n", browser.refresh_token());
    only_leads_to(&demo, "POST /auth/refresh", &cookie, "X-Forwarded-For", b"", &[200]).await;
    let bearer = format!("Authorization: Bearer {}\r\n", browser.access);
    only_leads_to(&demo, "GET /me", &bearer, "X-Forwarded-For", b"", &[200]).await;
}

#[tokio::test]
async fn a_hostile_forwarding_header_does_not_bypass_the_binding() {
    let demo = Demo::start(&[("TRUSTED_PROXIES", "127.0.0.0/8"), ("BIND_IP", "reject")]).await;
    let mut browser = demo.browser().at("203.0.113.7");
    browser.login("alice").await;
    let cookie = format!("Cookie: {COOKIE}={}\r\n", browser.refresh_token());
    only_leads_to(&demo, "POST /auth/refresh", &cookie, "X-Forwarded-For", b"", &[401]).await;
    browser.refresh().await.is(200);
}

#[tokio::test]
async fn a_login_with_a_hostile_user_agent_succeeds_and_is_listed() {
    let demo = Demo::new().await;
    for value in hostile_values() {
        let form = credentials("bob").to_string();
        let head = format!(
            "POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\nUser-Agent: ",
            form.len()
        );
        let request = [head.as_bytes(), &value, b"\r\n\r\n", form.as_bytes()].concat();
        demo.raw(&request).await.expect("a response").is(200);
    }
    let mut browser = demo.logged_in("bob").await;
    assert_eq!(browser.sessions().await.len(), hostile_values().len() + 1);
}

#[tokio::test]
async fn a_hostile_user_agent_does_not_bypass_the_binding() {
    let demo = Demo::start(&[("BIND_USER_AGENT", "reject")]).await;
    let mut browser = demo.browser().with_user_agent(axum_refresh_e2e::demo::CHROME);
    browser.login("alice").await;
    let cookie = format!("Cookie: {COOKIE}={}\r\n", browser.refresh_token());
    only_leads_to(&demo, "POST /auth/refresh", &cookie, "User-Agent", b"", &[401]).await;
    browser.refresh().await.is(200);
}

#[tokio::test]
async fn a_hostile_origin_or_site_relation_never_causes_a_server_error() {
    let demo = Demo::new().await;
    for name in ["Origin", "Sec-Fetch-Site"] {
        for value in hostile_values() {
            let status = status(&demo, "POST /auth/refresh", "", name, &value).await;
            // An empty value is not an origin.
            let expected = if value.trim_ascii().is_empty() { 401 } else { 403 };
            assert_eq!(status, Some(expected), "{name}: {}", String::from_utf8_lossy(&value));
        }
    }
    demo.is_alive().await;
}

#[tokio::test]
async fn hostile_content_and_accept_headers_never_cause_a_server_error() {
    let demo = Demo::start(&[("TRANSPORT", "both")]).await;
    let accepted = [400, 401, 413, 415];
    for name in ["Content-Type", "Accept", "Accept-Encoding", "If-None-Match", "X-Real-IP", "Forwarded", "Range"] {
        only_leads_to(&demo, "POST /auth/refresh", "Content-Length: 0\r\n", name, b"", &accepted).await;
    }
}

#[tokio::test]
async fn an_odd_path_never_causes_a_server_error() {
    let demo = Demo::new().await;
    let browser = demo.logged_in("alice").await;
    let long = format!("/auth/sessions/{}", "a".repeat(10_000));
    let deep = "/a".repeat(5_000);
    let paths = [
        "/auth/sessions/%00",
        "/auth/sessions/%ff",
        "/auth/sessions/%",
        "/auth/sessions/%zz",
        "/auth/sessions/%f0%9f%92%a5",
        "/auth/sessions/..%2f..%2f",
        "/auth/sessions/x/y",
        "/auth/sessions//",
        "/auth/refresh/",
        "/auth//refresh",
        "/auth/refresh%00",
        "/auth/REFRESH",
        "/auth/refresh;x=y",
        "/auth/../auth/refresh/..",
        "/auth",
        "/auth/",
        "/auth/unknown",
        "/admin/users/%00/sessions/x",
        "/admin/sessions/%ff",
        "*",
        "//",
        &long,
        &deep,
    ];
    for path in paths {
        for method in ["DELETE", "PUT", "PATCH"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
                browser.access
            );
            demo.raw(request.as_bytes()).await.expect("a response").is_the_clients_fault();
        }
    }
    demo.me(&browser.access).await.is(200);
}

#[tokio::test]
async fn an_odd_user_id_of_an_admin_route_never_causes_a_server_error() {
    let demo = Demo::new().await;
    let mut admin = demo.logged_in("alice").await;
    for user in ["%00", "%ff", "%F0%9F%92%A5", "nobody", "a%2Fb", "' OR 1=1 --", &"u".repeat(5_000)] {
        let path = format!("/admin/users/{user}/sessions");
        assert!(admin.get(&path).await.status < 500, "{user}");
        assert!(admin.delete(&path).await.status < 500, "{user}");
    }
    for session in ["%00", "%ff", "nobody", "a%2Fb", &"s".repeat(5_000)] {
        assert!(admin.delete(&format!("/admin/sessions/{session}")).await.status < 500, "{session}");
    }
    admin.me().await.is(200);
}

#[tokio::test]
async fn an_odd_query_has_no_effect() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    for query in ["?", "?next=//evil.example", "?%ff=%00", "?a=b&a=b", "??", "?refresh_token=x", "?id=*"] {
        browser.get(&format!("/me{query}")).await.is(200);
        browser.get(&format!("/auth/sessions{query}")).await.is(200);
        let call = browser.request(Method::POST, &format!("/auth/refresh{query}"));
        call.send().await.is(200);
    }
}

#[tokio::test]
async fn a_wrong_method_is_not_allowed() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    let session = format!("/auth/sessions/{}", browser.session());
    let wrong = [
        ("/auth/refresh", &["GET", "PUT", "DELETE", "PATCH", "HEAD", "BREW"][..]),
        ("/auth/logout", &["GET", "PUT", "DELETE", "PATCH", "HEAD"]),
        ("/auth/logout/all", &["GET", "PUT", "DELETE", "PATCH"]),
        ("/auth/logout/others", &["GET", "PUT", "DELETE", "PATCH"]),
        ("/auth/sessions", &["POST", "PUT", "DELETE", "PATCH"]),
        (&session, &["GET", "POST", "PUT", "PATCH"]),
        ("/login", &["PUT", "DELETE"]),
    ];
    for (path, methods) in wrong {
        for method in methods {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let answer = browser.request(method.clone(), path).bearer(&browser.access).send().await;
            assert_eq!(answer.status, 405, "{method} {path}");
            answer.sets_no_cookie();
        }
    }
    browser.refresh().await.is(200);
}

#[tokio::test]
async fn a_repeated_header_never_causes_a_server_error() {
    let demo = Demo::start(&[("TRUSTED_PROXIES", "127.0.0.0/8"), ("BIND_USER_AGENT", "reject")]).await;
    let browser = demo.logged_in("alice").await;
    for name in ["authorization", "host", "origin", "user-agent", "sec-fetch-site", "x-forwarded-for", "cookie"] {
        for (first, second) in [("garbage", "garbage"), ("", "garbage"), ("garbage", "")] {
            for path in ["/auth/refresh", "/auth/logout/others"] {
                let call = demo.post(path).header(name, first).header(name, second);
                call.send().await.is_the_clients_fault().sets_no_cookie();
            }
        }
    }
    demo.me(&browser.access).await.is(200);
}

#[tokio::test]
async fn a_request_with_many_cookies_is_answered() {
    let demo = Demo::new().await;
    let many = format!("{COOKIE}=x; ").repeat(500);
    demo.post("/auth/refresh").header("cookie", many).send().await.refused(401, "refresh_token_invalid");
    let others: String = (0..1_000).map(|number| format!("c{number}=x; ")).collect();
    demo.post("/auth/refresh").header("cookie", others).send().await.refused(401, "refresh_token_missing");
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused_and_the_server_keeps_running() {
    let demo = Demo::new().await;
    for name in ["Cookie: __Secure-refresh=", "Authorization: Bearer ", "X-Forwarded-For: ", "User-Agent: "] {
        let head = format!("POST /auth/refresh HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{name}");
        let request = [head.as_bytes(), &b"A".repeat(2 * 1024 * 1024), b"\r\n\r\n"].concat();
        // The server may also close the connection.
        if let Some(answer) = demo.raw(&request).await {
            answer.is_the_clients_fault();
        }
        demo.is_alive().await;
    }
}

#[tokio::test]
async fn an_unexpected_body_never_causes_a_server_error() {
    let demo = Demo::new().await;
    let body = vec![0xff_u8; 300_000];
    for path in ["/auth/refresh", "/auth/logout/others", "/login"] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let answer = demo.raw(&[head.as_bytes(), &body].concat()).await.expect("a response");
        answer.is_the_clients_fault().sets_no_cookie();
    }
    demo.is_alive().await;
}

#[tokio::test]
async fn a_login_form_that_is_too_large_is_refused() {
    let demo = Demo::new().await;
    let length = 16 * 1024 * 1024;
    let head = format!(
        "POST /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{{\"username\":\""
    );
    let answer = demo.raw(&[head.as_bytes(), &b"A".repeat(length)].concat()).await.expect("a response");
    answer.is_the_clients_fault();
    demo.is_alive().await;
}

#[tokio::test]
async fn a_client_that_disconnects_during_a_request_affects_nobody_else() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    let whole = format!("POST /auth/refresh HTTP/1.1\r\nHost: x\r\nCookie: {COOKIE}={token}\r\n\r\n");
    for length in (0..whole.len()).step_by(7) {
        let mut stream = TcpStream::connect(("127.0.0.1", demo.port())).await.unwrap();
        stream.write_all(&whole.as_bytes()[..length]).await.unwrap();
    }
    demo.refresh(&token).await.is(200);
}

#[tokio::test]
async fn bytes_that_are_not_http_are_refused_and_the_server_keeps_running() {
    let demo = Demo::new().await;
    for bytes in [
        &b"\r\n\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /me HTTP/9.9\r\n\r\n",
        b"GET /\xff\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /me HTTP/1.1\r\nHost: x\r\nCookie: a\0b\r\n\r\n",
        b"POST /auth/refresh HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /auth/refresh HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /auth/refresh HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", demo.port())).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.ok();
        demo.is_alive().await;
    }
}
