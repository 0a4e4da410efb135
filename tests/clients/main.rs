//! The broker as the world's clients see it: the real command as a child process, driven by
//! librdkafka through the `rdkafka` crate.

mod admin;
mod broker;
mod budgets;
mod consume;
mod damage;
mod floods;
mod groups;
mod kill;
mod nodes;
mod produce;
mod scale;
mod storm;
