//! The error of invalid settings.

/// A setting is invalid, alone or together with another one. The text names the setting and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct SettingsError {
    setting: &'static str,
    problem: String,
}

impl SettingsError {
    pub(crate) fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }

    /// The same problem with another setting.
    pub(crate) fn of(self, setting: &'static str) -> Self {
        Self { setting, ..self }
    }

    /// Returns the name of the setting, as it is written in a settings file, or of the
    /// [`AuthBuilder`](crate::AuthBuilder) method.
    pub const fn setting(&self) -> &'static str {
        self.setting
    }
}
