package boot

const finitModule = 273 // not in package syscall
