//! `fula vault`, and `vault:name/path` in the commands on files and objects.

mod copy;
mod items;
mod jobs;
mod list;
mod local;
mod manage;
mod names;
mod place;
mod remove;
mod reseal;
mod share;
mod single;
mod sync;
mod watch;

pub(super) use self::{
    copy::{copy, rename},
    list::{du, ls},
    place::{is_link, is_vault},
    remove::rm,
    single::{cat, put, stat},
    sync::sync,
};
pub(crate) use manage::run;
