package boot

const finitModule = 313 // not in package syscall
