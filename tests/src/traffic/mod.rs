//! Applications with known behaviour: what they sent, received and measured is the truth that flows are held against.
