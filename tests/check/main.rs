//! The check kit finds what is wrong, says where, and lets pass what is right.

mod gradcheck;
mod others;
mod properties;
