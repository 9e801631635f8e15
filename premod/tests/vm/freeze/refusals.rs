pub(crate) const TESTS: &[crate::harness::Test] = &[];
pub(crate) const WITHOUT_LSM: &[crate::harness::Test] = &[];
