//! Histories of images.
