//! The browser and platform behind a `User-Agent` header.

/// Returns the browser and its platform without their versions, so that an update changes nothing. For other clients,
/// returns the words of the header, also without versions.
pub(crate) fn family(user_agent: &str) -> String {
    // The first match counts: Edge and Opera also name Chrome, Chrome also names Safari, and all of them name Mozilla.
    const BROWSERS: [(&str, &str); 12] = [
        ("Edg/", "Edge"),
        ("EdgA/", "Edge"),
        ("EdgiOS/", "Edge"),
        ("OPR/", "Opera"),
        ("SamsungBrowser/", "Samsung Internet"),
        ("Vivaldi/", "Vivaldi"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        ("CriOS/", "Chrome"),
        ("HeadlessChrome/", "Chrome"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ];
    const PLATFORMS: [(&str, &str); 9] = [
        ("Windows", "Windows"),
        ("iPhone", "iOS"),
        ("iPad", "iOS"),
        ("iPod", "iOS"),
        ("Android", "Android"),
        ("CrOS", "ChromeOS"),
        ("Macintosh", "macOS"),
        ("Linux", "Linux"),
        ("X11", "Unix"),
    ];
    let find = |table: &[(&str, &'static str)]| {
        table.iter().find(|(mark, _)| user_agent.contains(mark)).map(|(_, name)| *name)
    };
    if let (true, Some(browser)) = (user_agent.starts_with("Mozilla/"), find(&BROWSERS)) {
        return format!("{browser} on {}", find(&PLATFORMS).unwrap_or("an unknown platform"));
    }
    let is_version = |word: &str| {
        let word = word.trim_matches(|c: char| c.is_ascii_punctuation());
        let word = word.strip_prefix('v').unwrap_or(word);
        word.starts_with(|c: char| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
    };
    let words = user_agent.split_whitespace().filter(|word| !is_version(word));
    let names = words.map(|word| word.split_once('/').map_or(word, |(name, _version)| name));
    names.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36";

    #[test]
    fn hole_30_a_browser_update_stays_in_the_family() {
        assert_eq!(family(CHROME), "Chrome on Windows");
        assert_eq!(family(&CHROME.replace("120.0.0.0", "156.0.8078.73")), family(CHROME));
        assert_eq!(family(&CHROME.replace("NT 10.0", "NT 11.0")), family(CHROME));
        let safari = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1";
        assert_eq!(family(safari), "Safari on iOS");
        assert_eq!(family(&safari.replace("17_2", "18_0").replace("15E148", "22A1")), family(safari));
        assert_eq!(family("MyApp/1.2.3 (iOS 17.2) CFNetwork/1474"), family("MyApp/2.0 (iOS 18.0) CFNetwork/1500.1"));
        assert_eq!(family("curl/7.88.1"), family("curl/8.5.0"));
    }

    #[test]
    fn another_browser_or_platform_is_another_family() {
        let others = [
            CHROME.to_owned(),
            CHROME.replace("Windows NT 10.0; Win64; x64", "X11; Linux x86_64"),
            CHROME.replace("Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10_15_7"),
            format!("{CHROME} Edg/120.0"),
            format!("{CHROME} OPR/106.0"),
            "Mozilla/5.0 (Windows NT 10.0; rv:120.0) Gecko/20100101 Firefox/120.0".to_owned(),
            "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Mobile Safari/537.36".to_owned(),
            "curl/8.5.0".to_owned(),
            "agent-1".to_owned(),
            "agent-2".to_owned(),
            "kitchen tablet".to_owned(),
            String::new(),
        ];
        let families: std::collections::HashSet<_> = others.iter().map(|agent| family(agent)).collect();
        assert_eq!(families.len(), others.len());
    }
}
