//! Tests of Plica against the real device.
