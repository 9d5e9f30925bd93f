//! Names of error numbers, for the `fault:` options.

const NAMES: [(&str, i32); 22] = [
    ("EPERM", libc::EPERM),
    ("EINTR", libc::EINTR),
    ("EIO", libc::EIO),
    ("ENXIO", libc::ENXIO),
    ("EAGAIN", libc::EAGAIN),
    ("ENOMEM", libc::ENOMEM),
    ("EACCES", libc::EACCES),
    ("EFAULT", libc::EFAULT),
    ("EBUSY", libc::EBUSY),
    ("ENODEV", libc::ENODEV),
    ("EINVAL", libc::EINVAL),
    ("EFBIG", libc::EFBIG),
    ("ENOSPC", libc::ENOSPC),
    ("EROFS", libc::EROFS),
    ("EOVERFLOW", libc::EOVERFLOW),
    ("EILSEQ", libc::EILSEQ),
    ("EOPNOTSUPP", libc::EOPNOTSUPP),
    ("ENOTSUP", libc::ENOTSUP),
    ("ESHUTDOWN", libc::ESHUTDOWN),
    ("ETIMEDOUT", libc::ETIMEDOUT),
    ("EDQUOT", libc::EDQUOT),
    ("ECANCELED", libc::ECANCELED),
];

/// The number of a name (`EIO`, any case) or of a number written out.
pub(super) fn number_of(name: &str) -> Option<i32> {
    match name.parse() {
        Ok(number) => (1..=4095).contains(&number).then_some(number),
        Err(_) => NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, number)| number),
    }
}

/// What [`number_of`] reads as this number.
pub(super) fn name_of(number: i32) -> String {
    match NAMES.iter().find(|&&(_, known)| known == number) {
        Some((name, _)) => (*name).to_owned(),
        None => number.to_string(),
    }
}
