//! Hands: sockets, TLS, copying. Told what to do; decides nothing.
