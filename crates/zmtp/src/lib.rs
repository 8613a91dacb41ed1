//! ZMTP 3.1 (NULL mechanism): sans-I/O codec, ROUTER and DEALER over tokio.
