//! Errors as a person reads them: what was being done, and what the API server or the system answered, once.

use std::{error::Error, io};

use kube::{
    client::AuthError,
    config::{InferConfigError, KubeconfigError},
};

/// The error in one line. What a library wraps around an answer, and the answer's own fields, are left out.
#[must_use]
pub fn sentence(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for cause in error.chain() {
        if let Some(answer) = cause.downcast_ref::<kube::Error>() {
            parts.push(of_answer(answer));
            break;
        }
        let part = cause.to_string();
        // Some libraries put their cause's text into their own.
        let is_repeated = parts
            .last()
            .is_some_and(|last: &String| last.contains(&part));
        if !is_repeated {
            parts.push(part);
        }
    }
    parts.join(": ")
}

/// The same of a request to the API server.
pub(super) fn of_answer(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        kube::Error::Auth(why) => of_login(why),
        other => {
            let cause = innermost(other).to_string();
            match other {
                kube::Error::Service(_) | kube::Error::HyperError(_) => {
                    format!("the API server cannot be reached: {cause}")
                }
                _ => cause,
            }
        }
    }
}

/// Why the user that a kubeconfig names cannot log in.
fn of_login(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecStart(why) => {
            format!("the program that exec names in it cannot be started: {why}")
        }
        // It wrote to the terminal why.
        AuthError::AuthExecRun { out, .. } => {
            format!("the program that exec names in it failed: {}", out.status)
        }
        other => plain(&other.to_string()),
    }
}

/// A library's text without the quotes in which it puts a path a second time, and without the lines that show the place.
fn plain(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    first.replace("'\"", "'").replace("\"'", "'")
}

/// Why no kubeconfig leads to a cluster; what a pod would have instead is left out.
pub(super) fn of_kubeconfig(error: &InferConfigError) -> String {
    let cause = error.source().unwrap_or(error);
    match cause.downcast_ref::<KubeconfigError>() {
        Some(KubeconfigError::ReadConfig(why, path)) if why.kind() == io::ErrorKind::NotFound => {
            format!("there is no kubeconfig: {} does not exist", path.display())
        }
        _ => format!(
            "the kubeconfig cannot be used: {}",
            plain(&cause.to_string())
        ),
    }
}

/// Whether the user has no right to what was asked.
pub(super) fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;
    use kube::{client::AuthError, core::Status};

    use super::{of_answer, sentence};

    fn answer(message: &str, code: u16) -> kube::Error {
        let status = Status::failure(message, "Reason").with_code(code);
        kube::Error::Api(Box::new(status))
    }

    #[test]
    fn answer_of_the_api_server_is_its_message() {
        let error = Err::<(), _>(answer("pods \"nope\" not found", 404));
        let error = error
            .context("reading pod/nope in namespace shop")
            .expect_err("an error");
        assert_eq!(
            sentence(&error),
            "reading pod/nope in namespace shop: pods \"nope\" not found"
        );
    }

    #[test]
    fn unreachable_api_server_has_one_cause() {
        let refused = io::Error::from_raw_os_error(111);
        let wrapped = io::Error::other(io::Error::other(refused));
        let text = of_answer(&kube::Error::Service(Box::new(wrapped)));
        assert!(
            text.starts_with("the API server cannot be reached: Connection refused"),
            "{text}"
        );
        assert!(
            !text.contains("Error:") && !text.contains("Custom"),
            "{text}"
        );
    }

    #[test]
    fn failed_login_is_reported_in_one_line() {
        let absent = || io::Error::from_raw_os_error(2);
        let rows = [
            (
                AuthError::AuthExecStart(absent()),
                "the program that exec names in it cannot be started: No such file or directory (os error 2)",
            ),
            (
                AuthError::ReadTokenFile(absent(), "/token".into()),
                "failed to read token file '/token': No such file or directory (os error 2)",
            ),
            (
                AuthError::AuthExec("one\n --> two".to_owned()),
                "failed exec auth: one",
            ),
        ];
        for (error, expected) in rows {
            assert_eq!(of_answer(&kube::Error::Auth(error)), expected);
        }
    }

    #[test]
    fn causes_are_not_repeated() {
        let error = anyhow::anyhow!("line 3 is wrong").context("reading a.yaml: line 3 is wrong");
        assert_eq!(sentence(&error), "reading a.yaml: line 3 is wrong");
        let error = anyhow::anyhow!("no a").context("it has errors: no a; compare it");
        assert_eq!(sentence(&error), "it has errors: no a; compare it");
        let error = anyhow::anyhow!("no such file").context("reading a.yaml");
        assert_eq!(sentence(&error), "reading a.yaml: no such file");
    }
}
