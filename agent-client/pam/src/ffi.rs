//! The only place that speaks C: libpam's functions, and the six that libpam calls.
//!
//! Each entry point does nothing but find the options and hand over to [`module::run`], inside `catch_unwind`: a panic that
//! crossed into C would abort sshd's child or sudo.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::Once;

use gatepass_logon::wire::{Phase, Secret};
use zeroize::Zeroize;

use crate::module::{self, Code, Item, Pam, Tone};
use crate::options::Options;
use crate::terminal::Terminal;

/// libpam's opaque state of one login.
#[repr(C)]
pub struct Handle {
    _opaque: [u8; 0],
}

#[repr(C)]
struct Message {
    style: c_int,
    text: *const c_char,
}

#[repr(C)]
struct Response {
    text: *mut c_char,
    _unused: c_int,
}

#[repr(C)]
struct Conversation {
    talk: Option<unsafe extern "C" fn(c_int, *mut *const Message, *mut *mut Response, *mut c_void) -> c_int>,
    application: *mut c_void,
}

const PAM_SUCCESS: c_int = 0;
const PAM_SERVICE: c_int = 1;
const PAM_USER: c_int = 2;
const PAM_TTY: c_int = 3;
const PAM_RHOST: c_int = 4;
const PAM_CONV: c_int = 5;
const PAM_RUSER: c_int = 8;
const PAM_PROMPT_ECHO_OFF: c_int = 1;
const PAM_PROMPT_ECHO_ON: c_int = 2;
const PAM_ERROR_MSG: c_int = 3;
const PAM_TEXT_INFO: c_int = 4;

/// `PAM_MAX_RESP_SIZE`: what programs that have a limit cut an answer at. No answer of ours is longer.
const LONGEST_ANSWER: usize = 512;

#[link(name = "pam")]
unsafe extern "C" {
    fn pam_get_item(handle: *const Handle, item: c_int, value: *mut *const c_void) -> c_int;
    fn pam_set_item(handle: *mut Handle, item: c_int, value: *const c_void) -> c_int;
    fn pam_get_user(handle: *mut Handle, user: *mut *const c_char, prompt: *const c_char) -> c_int;
    fn pam_getenv(handle: *mut Handle, name: *const c_char) -> *const c_char;
    fn pam_putenv(handle: *mut Handle, name_value: *const c_char) -> c_int;
    fn pam_syslog(handle: *const Handle, priority: c_int, format: *const c_char, ...);
}

/// A PAM handle during one call of an entry point.
struct Real(*mut Handle);

impl Real {
    fn raw_item(&self, item: c_int) -> Option<*const c_void> {
        let mut value = ptr::null();
        // SAFETY: libpam gave us the handle for the duration of this call; `value` is a valid place for a pointer.
        let code = unsafe { pam_get_item(self.0, item, &mut value) };
        (code == PAM_SUCCESS && !value.is_null()).then_some(value)
    }

    /// One message to the program, and its answer if it gave one: `Err` when it refused.
    fn talk(&self, style: c_int, text: &str) -> Result<Option<Secret>, Code> {
        let conversation = self.raw_item(PAM_CONV).ok_or(Code::ConvErr)?.cast::<Conversation>();
        // SAFETY: the item PAM_CONV is a `struct pam_conv`, which lives as long as the handle.
        let Conversation { talk, application } = unsafe { &*conversation };
        let talk = talk.ok_or(Code::ConvErr)?;
        let text = CString::new(text).map_err(|_| Code::ConvErr)?;
        let message = Message { style, text: text.as_ptr() };
        let mut messages: *const Message = &message;
        let mut responses = ptr::null_mut();
        // SAFETY: one message is announced and one is there (as an array of pointers and as a pointer to an array, the two readings
        // of this interface, which agree for one message); the application pointer is the one that belongs to this function.
        let code = unsafe { talk(1, &mut messages, &mut responses, *application) };
        // SAFETY: the program hands over one response from malloc, or none, in both cases to us alone.
        let answer = unsafe { take(responses) };
        if code == PAM_SUCCESS { Ok(answer) } else { Err(Code::ConvErr) }
    }
}

/// Copies the answer out of the program's response, wipes it and frees both, as PAM asks modules to.
///
/// # Safety
/// `responses` is null, or a malloc'ed array of one response whose text is null or a malloc'ed C string; nobody else uses them.
unsafe fn take(responses: *mut Response) -> Option<Secret> {
    if responses.is_null() {
        return None;
    }
    // SAFETY: not null, so it is one response that is ours.
    let text = unsafe { (*responses).text };
    let mut answer = None;
    if !text.is_null() {
        // SAFETY: not null, so it is a C string that is ours; its bytes without the final zero are wiped in place.
        let bytes = unsafe { std::slice::from_raw_parts_mut(text.cast::<u8>(), CStr::from_ptr(text).count_bytes()) };
        if bytes.len() <= LONGEST_ANSWER {
            answer = Some(Secret::new(String::from_utf8_lossy(bytes).into_owned()));
        }
        bytes.zeroize();
        // SAFETY: from malloc, and not used again.
        unsafe { libc::free(text.cast()) };
    }
    // SAFETY: from malloc, and not used again.
    unsafe { libc::free(responses.cast()) };
    answer
}

/// Copies a C string; None when it is null or not UTF-8.
///
/// # Safety
/// `text` is null or a C string that stays as it is during the call.
unsafe fn copied(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, so it is a C string.
    unsafe { CStr::from_ptr(text) }.to_str().ok().map(str::to_owned)
}

impl Pam for Real {
    fn item(&self, item: Item) -> String {
        let item = match item {
            Item::Service => PAM_SERVICE,
            Item::Tty => PAM_TTY,
            Item::Rhost => PAM_RHOST,
            Item::Ruser => PAM_RUSER,
        };
        let Some(text) = self.raw_item(item) else { return String::new() };
        // SAFETY: these four items are C strings that libpam keeps until they are set anew.
        unsafe { CStr::from_ptr(text.cast()) }.to_string_lossy().into_owned()
    }

    fn user(&mut self) -> Result<String, Code> {
        let mut user = ptr::null();
        // SAFETY: the handle is valid; `user` is a valid place for a pointer; a null prompt means libpam's own.
        let code = unsafe { pam_get_user(self.0, &mut user, ptr::null()) };
        if code != PAM_SUCCESS {
            return Err(Code::ConvErr);
        }
        // SAFETY: on success it is a C string that libpam keeps. One that is not UTF-8 names no account of ours.
        unsafe { copied(user) }.ok_or(Code::UserUnknown)
    }

    fn set_user(&mut self, name: &str) -> Result<(), Code> {
        let name = CString::new(name).map_err(|_| Code::SystemErr)?;
        // SAFETY: the handle is valid; libpam copies the string.
        let code = unsafe { pam_set_item(self.0, PAM_USER, name.as_ptr().cast()) };
        if code == PAM_SUCCESS { Ok(()) } else { Err(Code::SystemErr) }
    }

    fn env(&self, name: &str) -> Option<String> {
        let name = CString::new(name).ok()?;
        // SAFETY: the handle is valid, the name is a C string; the value is libpam's until it is set anew, and copied at once.
        unsafe { copied(pam_getenv(self.0, name.as_ptr())) }
    }

    fn set_env(&mut self, name: &str, value: &str) -> Result<(), Code> {
        if name.is_empty() || name.contains('=') {
            return Err(Code::SystemErr);
        }
        let name_value = CString::new(format!("{name}={value}")).map_err(|_| Code::SystemErr)?;
        // SAFETY: the handle is valid; libpam copies the string.
        let code = unsafe { pam_putenv(self.0, name_value.as_ptr()) };
        if code == PAM_SUCCESS { Ok(()) } else { Err(Code::SystemErr) }
    }

    fn show(&mut self, tone: Tone, text: &str) -> Result<(), Code> {
        let style = match tone {
            Tone::Info => PAM_TEXT_INFO,
            Tone::Error => PAM_ERROR_MSG,
        };
        self.talk(style, text).map(drop)
    }

    fn ask(&mut self, text: &str, echo: bool) -> Option<Secret> {
        let style = if echo { PAM_PROMPT_ECHO_ON } else { PAM_PROMPT_ECHO_OFF };
        self.talk(style, text).ok().flatten()
    }

    fn log(&self, text: &str) {
        let Ok(text) = CString::new(text) else { return };
        // SAFETY: the handle is valid; the format takes exactly the one C string that it is given.
        unsafe { pam_syslog(self.0, libc::LOG_ERR, c"%s".as_ptr(), text.as_ptr()) };
    }

    fn gives_up(&self) -> Option<OwnedFd> {
        // sudo blocks Ctrl-C while it authenticates, and looks at it when PAM is done. A signal that is blocked can be seen in a signalfd
        // without taking it away from sudo. Where it isn't blocked (su, login) it ends the program, and with it the connection.
        // SAFETY: an all-zero set is a valid place for `sigemptyset`, which makes it a set; the two signals exist; -1 asks
        // for a new descriptor, which is ours alone when it is not negative.
        unsafe {
            let mut signals = std::mem::zeroed();
            libc::sigemptyset(&mut signals);
            libc::sigaddset(&mut signals, libc::SIGINT);
            libc::sigaddset(&mut signals, libc::SIGQUIT);
            let fd = libc::signalfd(-1, &signals, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
        }
    }

    fn terminal(&self) -> Terminal {
        Terminal::of_this_process()
    }

    fn adopt_orphans(&mut self) {
        // Any process stands for "yes"; Linux has known this since 3.4.
        if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            self.log(&format!("what this session leaves behind can't be found again ({error})"));
        }
    }
}

/// Runs one phase for libpam.
///
/// # Safety
/// `handle` is libpam's, and `argv` holds `argc` C strings: what libpam passes to every entry point.
unsafe fn enter(handle: *mut Handle, argc: c_int, argv: *const *const c_char, phase: Phase) -> c_int {
    guarded(|| {
        let mut pam = Real(handle);
        let count = if argv.is_null() { 0 } else { usize::try_from(argc).unwrap_or(0) };
        // SAFETY: libpam passes `argc` C strings, which outlive the call.
        let arguments = (0..count).map(|i| unsafe { CStr::from_ptr(*argv.add(i)) }.to_string_lossy());
        let arguments: Vec<_> = arguments.collect();
        match Options::parse(arguments.iter().map(AsRef::as_ref)) {
            Ok(options) => module::run(phase, &options, ROOT, &mut pam),
            Err(wrong) => {
                pam.log(&wrong);
                Code::ServiceErr
            }
        }
    })
}

/// A panic ends here, in silence, as a failure of the module.
fn guarded(body: impl FnOnce() -> Code) -> c_int {
    // The hook is this library's own: it has its own copy of the standard library. The default one writes to the program's stderr.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| panic::set_hook(Box::new(|_| {})));
    panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or(Code::ServiceErr) as c_int
}

/// Who may be the daemon.
const ROOT: u32 = 0;

/// Shows the QR code and waits for the phone's decision.
///
/// # Safety
/// For libpam only: a valid handle, and `argc` C strings in `argv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pam_sm_authenticate(
    handle: *mut Handle,
    _flags: c_int,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // `PAM_SILENT` is not obeyed: sudo sets it always, and a QR code that nobody sees can't be scanned.
    // SAFETY: the caller's promise, passed on.
    unsafe { enter(handle, argc, argv, Phase::Authenticate) }
}

/// Says whether the account may be used now.
///
/// # Safety
/// As [`pam_sm_authenticate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pam_sm_acct_mgmt(
    handle: *mut Handle,
    _flags: c_int,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: the caller's promise, passed on.
    unsafe { enter(handle, argc, argv, Phase::Account) }
}

/// Tells the daemon that the session begins, in the process that will be its ancestor.
///
/// # Safety
/// As [`pam_sm_authenticate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pam_sm_open_session(
    handle: *mut Handle,
    _flags: c_int,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: the caller's promise, passed on.
    unsafe { enter(handle, argc, argv, Phase::OpenSession) }
}

/// Tells the daemon that the session ended.
///
/// # Safety
/// As [`pam_sm_authenticate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pam_sm_close_session(
    handle: *mut Handle,
    _flags: c_int,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: the caller's promise, passed on.
    unsafe { enter(handle, argc, argv, Phase::CloseSession) }
}

/// There are no credentials to set; saying so lets a stack of this module alone succeed.
#[unsafe(no_mangle)]
pub extern "C" fn pam_sm_setcred(_: *mut Handle, _: c_int, _: c_int, _: *const *const c_char) -> c_int {
    Code::Success as c_int
}

/// There is no password to change.
#[unsafe(no_mangle)]
pub extern "C" fn pam_sm_chauthtok(_: *mut Handle, _: c_int, _: c_int, _: *const *const c_char) -> c_int {
    Code::Ignore as c_int
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program's response with this text.
    fn response(text: Option<&str>) -> *mut Response {
        let text = text.map(|text| CString::new(text).unwrap());
        // SAFETY: room for one response, which is written at once; `strdup` copies a valid C string by malloc.
        unsafe {
            let response = libc::malloc(size_of::<Response>()).cast::<Response>();
            let text = text.map_or(ptr::null_mut(), |text| libc::strdup(text.as_ptr()));
            response.write(Response { text, _unused: 0 });
            response
        }
    }

    #[test]
    fn an_answer_is_taken_out_of_the_programs_memory() {
        let long = "x".repeat(LONGEST_ANSWER + 1);
        for (given, taken) in
            [(Some("831"), Some("831")), (Some(""), Some("")), (Some(long.as_str()), None), (None, None)]
        {
            // SAFETY: a response as programs make them, handed over.
            let answer = unsafe { take(response(given)) };
            assert_eq!(answer.as_ref().map(Secret::as_str), taken);
        }
        // SAFETY: null is allowed.
        assert_eq!(unsafe { take(ptr::null_mut()) }, None);
    }

    #[test]
    fn a_panic_is_a_failure_of_the_module_and_not_of_its_host() {
        assert_eq!(guarded(|| panic!("a bug")), Code::ServiceErr as c_int);
        assert_eq!(guarded(|| Code::Ignore), 25);
    }
}
