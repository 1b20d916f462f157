//! What devices see through a VT-d unit: VT-d 9.7 to 9.8.

mod first_stage;
mod second_stage;

pub use first_stage::VTD_FIRST_STAGE;
pub use second_stage::VTD_SECOND_STAGE;
