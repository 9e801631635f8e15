pub(crate) const TESTS: &[crate::harness::Test] = &[];
