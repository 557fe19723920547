//! The real programs that tests run against: pins, builds, starts and questions.
