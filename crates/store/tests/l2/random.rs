//! Everything at once, drawn from a seed: adapters that answer in any order, fail, hang and die;
//! requests that overlap and go away; stores, clears, time. After every step the books agree, bytes
//! read are the right ones, memory under I/O is nobody else's, and in the end nothing is left.
