//! The program and platform behind a `User-Agent` header, without versions.

use std::fmt;

/// Whether two headers come from one program on one platform, as far as an update or a switch to desktop sites leaves
/// that visible.
pub(crate) fn is_same_family(one: &str, other: &str) -> bool {
    one == other || Family::of(one).is(&Family::of(other))
}

/// A program and its platform.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Family {
    kind: Kind,
    name: String,
    platform: Option<Platform>,
}

/// Whether the header has the form that all browsers have in common, and with it a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Browser,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Platform {
    Windows,
    Ios,
    MacOs,
    Android,
    ChromeOs,
    Linux,
    Unix,
}

impl Platform {
    const fn name(self) -> &'static str {
        match self {
            Self::Windows => "Windows",
            Self::Ios => "iOS",
            Self::MacOs => "macOS",
            Self::Android => "Android",
            Self::ChromeOs => "ChromeOS",
            Self::Linux => "Linux",
            Self::Unix => "Unix",
        }
    }

    /// A phone or tablet that asks for desktop sites pretends to be a desktop: an iPad or iPhone is a Mac, and an Android
    /// device is a Linux machine. The user switches this, for one site or for all, while being logged in.
    const fn on_desktop_sites(self) -> Self {
        match self {
            Self::Ios => Self::MacOs,
            Self::Android => Self::Linux,
            other => other,
        }
    }
}

/// Words that say which platform it is, in comments. The first match counts: an iPhone is also "like Mac OS X", and an
/// Android device also names Linux.
const PLATFORMS: [(&str, Platform); 22] = [
    ("windows", Platform::Windows),
    ("win", Platform::Windows),
    ("iphone", Platform::Ios),
    ("ipad", Platform::Ios),
    ("ipod", Platform::Ios),
    ("ios", Platform::Ios),
    ("ipados", Platform::Ios),
    ("tvos", Platform::Ios),
    ("watchos", Platform::Ios),
    ("visionos", Platform::Ios),
    ("android", Platform::Android),
    ("cros", Platform::ChromeOs),
    ("macintosh", Platform::MacOs),
    ("macos", Platform::MacOs),
    ("mac", Platform::MacOs),
    ("osx", Platform::MacOs),
    ("darwin", Platform::MacOs),
    ("linux", Platform::Linux),
    ("freebsd", Platform::Unix),
    ("openbsd", Platform::Unix),
    ("netbsd", Platform::Unix),
    ("sunos", Platform::Unix),
];

/// Products that say which browser it is, whatever else is named. Those for iOS are other programs than those of the same
/// name on a Mac, and pretend to run on one if they ask for desktop sites.
const BROWSERS: [(&str, &str); 22] = [
    ("EdgiOS", "Edge for iOS"),
    ("CriOS", "Chrome for iOS"),
    ("FxiOS", "Firefox for iOS"),
    ("OPiOS", "Opera for iOS"),
    ("OPT", "Opera for iOS"),
    ("OPX", "Opera for iOS"),
    ("Edg", "Edge"),
    ("EdgA", "Edge"),
    ("Edge", "Edge"),
    ("OPR", "Opera"),
    ("Opera", "Opera"),
    ("MSIE", "Internet Explorer"),
    ("Trident", "Internet Explorer"),
    ("DuckDuckGo", "DuckDuckGo"),
    ("Ddg", "DuckDuckGo"),
    // In-app browsers whose other products come, go and change places with versions.
    ("FBAN", "Facebook"),
    ("FBAV", "Facebook"),
    ("FB_IAB", "Facebook"),
    ("MicroMessenger", "WeChat"),
    ("BytedanceWebview", "TikTok"),
    ("musical_ly", "TikTok"),
    ("trill", "TikTok"),
];

/// Products that many browsers name, so that they say nothing if there is another.
const COMMON: [&str; 18] = [
    "Mozilla",
    "AppleWebKit",
    "KHTML",
    "like",
    "Gecko",
    "Version",
    "Mobile",
    "Build",
    "Ubuntu",
    "Debian",
    "Raspbian",
    "Fedora",
    "Chromium",
    "Chrome",
    "HeadlessChrome",
    "Firefox",
    "Safari",
    "Presto",
];

impl Family {
    pub(crate) fn of(user_agent: &str) -> Self {
        let Parts { products, comments, declared } = Parts::of(user_agent);
        let platform = platform_of(&comments);
        let first = products.first().copied().unwrap_or_default();
        if !matches!(first, "Mozilla" | "Opera") {
            return Self { kind: Kind::Other, name: other_name(&products), platform };
        }
        let has = |name: &str| products.contains(&name) || declared.contains(&name);
        let known = BROWSERS.iter().find(|(product, _)| has(product)).map(|(_, name)| *name);
        let is_common = |product: &str| COMMON.iter().any(|common| common.eq_ignore_ascii_case(product));
        let own = || products.iter().chain(&declared).find(|product| !is_common(product)).copied();
        let engine = || match () {
            () if has("Firefox") => "Firefox",
            // A WebView of Android has kept the `Version/4.0` of the browser before Chrome.
            () if has("Chrome") && has("Version") => "Android WebView",
            () if has("Chrome") || has("HeadlessChrome") || has("Chromium") => "Chrome",
            () if has("Safari") => "Safari",
            () if has("AppleWebKit") => "WebKit",
            () => "Mozilla",
        };
        let name = known.or_else(own).unwrap_or_else(engine).to_owned();
        Self { kind: Kind::Browser, name, platform: platform.map(Platform::on_desktop_sites) }
    }

    /// Browsers always name their platform. Of other programs, an update may add or remove it.
    fn is(&self, other: &Self) -> bool {
        let is_unnamed = self.platform.is_none() || other.platform.is_none();
        let is_same_platform = self.platform == other.platform || (self.kind == Kind::Other && is_unnamed);
        self.kind == other.kind && self.name == other.name && is_same_platform
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.platform, self.kind) {
            (Some(platform), _) => write!(f, "{} on {}", self.name, platform.name()),
            (None, Kind::Browser) => write!(f, "{} on an unknown platform", self.name),
            (None, Kind::Other) => f.write_str(&self.name),
        }
    }
}

/// The words of a program that is no browser, each of them once.
fn other_name(products: &[&str]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for product in products {
        if !names.contains(product) {
            names.push(product);
        }
    }
    names.join(" ")
}

/// The platform that the comments name.
fn platform_of(comments: &[&str]) -> Option<Platform> {
    let words = || {
        let words = comments.iter().flat_map(|comment| comment.split(|c: char| !c.is_ascii_alphanumeric()));
        words.map(before_version)
    };
    let found = PLATFORMS.iter().find(|(mark, _)| words().any(|word| word.eq_ignore_ascii_case(mark)));
    let has_x11 = || comments.iter().any(|comment| comment.starts_with("X11"));
    found.map(|(_, platform)| *platform).or_else(|| has_x11().then_some(Platform::Unix))
}

/// The header's products without their versions (RFC 9110 §10.1.5), and its comments.
#[derive(Default)]
struct Parts<'a> {
    products: Vec<&'a str>,
    comments: Vec<&'a str>,
    /// Products in comments: what is `compatible` to a browser (bots, Internet Explorer), and Internet Explorer's engine.
    declared: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(user_agent: &'a str) -> Self {
        let mut parts = Self::default();
        let mut rest = user_agent;
        while let Some(at) = rest.find(['(', '[']) {
            let (words, group) = rest.split_at(at);
            parts.add_products(words);
            let (content, after) = split_group(group);
            if group.starts_with('(') {
                parts.add_comment(content);
            } else {
                // Some apps put what they are into brackets: `[FBAN/FBIOS;FBAV/443.0]`, `[Pinterest/iOS]`.
                parts.products.extend(content.split([';', ' ']).next().and_then(name_of));
            }
            rest = after;
        }
        parts.add_products(rest);
        parts
    }

    fn add_products(&mut self, words: &'a str) {
        self.products.extend(words.split_whitespace().filter_map(name_of));
    }

    fn add_comment(&mut self, comment: &'a str) {
        self.comments.push(comment);
        let mut pieces = comment.split(';').map(str::trim);
        if pieces.any(|piece| piece == "compatible") {
            self.declared.extend(pieces.next().and_then(name_of));
        } else if comment.contains("Trident/") {
            self.declared.push("Trident");
        }
    }
}

/// Splits a comment in parentheses, which may be nested, or a group in brackets from what follows. One that is not closed
/// was cut off.
fn split_group(text: &str) -> (&str, &str) {
    let (open, close) = if text.starts_with('(') { ('(', ')') } else { ('[', ']') };
    let mut depth = 0_usize;
    for (at, character) in text.char_indices() {
        if character == open {
            depth += 1;
        } else if character == close {
            depth = depth.saturating_sub(1);
        }
        if depth == 0 {
            return (text.get(1..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default());
        }
    }
    (text.get(1..).unwrap_or_default(), "")
}

/// A word without its version: what stands before `/`, `:`, `=` or the first digit. None if nothing does, and for a
/// language, which the user can change.
fn name_of(word: &str) -> Option<&str> {
    let name = word.split(['/', ':', '=', '#']).next().unwrap_or_default();
    let name = before_version(name).trim_matches(|c: char| c.is_whitespace() || (c.is_ascii_punctuation() && c != '%'));
    (!name.is_empty() && !matches!(name, "v" | "V") && !is_language(name)).then_some(name)
}

/// Whether this is a language with a script or region, such as `en-US`, `pt_BR` or `zh-Hans-CN` (RFC 5646 §2.1).
fn is_language(name: &str) -> bool {
    let mut tags = name.split(['-', '_']);
    let is_lower = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase());
    let is_upper = |text: &str| text.bytes().all(|b| b.is_ascii_uppercase());
    let is_code = |text: &str| matches!(text.len(), 2 | 3) && is_lower(text);
    let is_region = |text: &str| text.len() == 2 && is_upper(text);
    let is_script = |text: &str| {
        text.len() == 4 && text.split_at_checked(1).is_some_and(|(first, rest)| is_upper(first) && is_lower(rest))
    };
    if !tags.next().is_some_and(is_code) {
        return false;
    }
    match (tags.next(), tags.next(), tags.next()) {
        (Some(tag), None, None) => is_region(tag) || is_script(tag),
        (Some(script), Some(region), None) => is_script(script) && is_region(region),
        _ => false,
    }
}

/// The part of a word before the first digit, apart from those of percent-encoding: iOS writes `My%20App/41`.
fn before_version(word: &str) -> &str {
    let bytes = word.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, bytes.get(at + 1..at + 3)) {
            (b'%', Some(code)) if code.iter().all(u8::is_ascii_hexdigit) => at += 3,
            (byte, _) if byte.is_ascii_digit() => break,
            _ => at += 1,
        }
    }
    word.get(..at).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(user_agent: &str) -> String {
        Family::of(user_agent).to_string()
    }

    #[test]
    fn a_browser_is_named_with_its_platform_and_without_versions() {
        let cases = [
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
                "Chrome on Windows",
            ),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0", "Firefox on Linux"),
            (
                "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
                "Chrome on ChromeOS",
            ),
            ("Mozilla/5.0 (X11; FreeBSD amd64; rv:120.0) Gecko/20100101 Firefox/120.0", "Firefox on Unix"),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 [FBAN/FBIOS;FBAV/443.0.0.23.229]",
                "Facebook on macOS",
            ),
            (
                "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
                "Googlebot on an unknown platform",
            ),
            ("Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko", "Internet Explorer on Windows"),
        ];
        for (user_agent, expected) in cases {
            assert_eq!(family(user_agent), expected);
        }
    }

    #[test]
    fn another_program_is_named_by_its_words_up_to_their_versions() {
        let cases = [
            ("curl/8.5.0", "curl"),
            ("MyApp/1.2 (com.example; build:41; iOS 17.2.0) Alamofire/5.8", "MyApp Alamofire on iOS"),
            ("MyApp 1.2 build:41 v3 de-DE", "MyApp build"),
            ("My%20App/41 CFNetwork/1474 Darwin/23.3.0", "My%20App CFNetwork Darwin"),
            ("%E5%BE%AE%E4%BF%A1/8.0.44 CFNetwork/1474", "%E5%BE%AE%E4%BF%A1 CFNetwork"),
            ("kitchen tablet", "kitchen tablet"),
            ("", ""),
            ("41", ""),
        ];
        for (user_agent, expected) in cases {
            assert_eq!(family(user_agent), expected);
        }
    }

    #[test]
    fn a_header_in_disorder_is_read_as_far_as_possible() {
        for (user_agent, expected) in [
            ("MyApp (unclosed; iOS 17", "MyApp on iOS"),
            ("MyApp ((nested) Windows NT) Lib", "MyApp Lib on Windows"),
            ("MyApp ) stray ] Lib", "MyApp stray Lib"),
            ("[Group", "Group"),
            ("()[]", ""),
            ("é/1 (ü)", "é"),
        ] {
            assert_eq!(family(user_agent), expected, "{user_agent}");
        }
    }
}
