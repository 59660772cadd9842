//! The Terraform Enterprise API.
