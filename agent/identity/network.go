package identity

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// Network is the one interface of a machine.
type Network struct {
	MAC     string   `json:"mac"`
	Address string   `json:"address"`
	Gateway *string  `json:"gateway"`
	DNS     []string `json:"dns"`
	MTU     int      `json:"mtu"`
}

const linkPatience = 3 * time.Second

// configure brings lo up, always, and the interface if there is to be one.
func configure(wanted *Network) error {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(socket)
	if err := setUp(socket, "lo", true); err != nil {
		return err
	}
	if wanted == nil {
		return nil
	}
	address, err := netip.ParsePrefix(wanted.Address)
	if err != nil || !address.Addr().Is4() {
		return errors.New("address " + strconv.Quote(wanted.Address) + " is not IPv4 with a prefix length")
	}
	mac, err := net.ParseMAC(wanted.MAC)
	if err != nil || len(mac) != 6 {
		return errors.New("mac " + strconv.Quote(wanted.MAC) + " is not one")
	}
	name, err := find(mac.String())
	if err != nil {
		return err
	}
	if err := setLink(socket, name, mac, wanted.MTU); err != nil {
		return err
	}
	if err := setAddress(socket, name, address); err != nil {
		return err
	}
	return errors.Join(setGateway(socket, name, address, wanted.Gateway), setResolver(wanted.DNS))
}

// find returns the interface with that address, or else the only one that there is, as soon as its driver shows it.
func find(mac string) (string, error) {
	for end := time.Now().Add(linkPatience); ; time.Sleep(5 * time.Millisecond) {
		cards := ethernets()
		for name, address := range cards {
			if address == mac {
				return name, nil
			}
		}
		for name := range cards {
			if len(cards) == 1 {
				return name, nil
			}
		}
		if time.Now().After(end) {
			return "", errors.New("no interface " + mac + " among " + strconv.Itoa(len(cards)))
		}
	}
}

func ethernets() map[string]string {
	cards := map[string]string{}
	links, _ := filepath.Glob("/sys/class/net/*/device")
	for _, link := range links {
		folder := filepath.Dir(link)
		if read(folder+"/type") == "1" {
			cards[filepath.Base(folder)] = read(folder + "/address")
		}
	}
	return cards
}

func read(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}

// request is struct ifreq: a name and a union.
type request struct {
	name [16]byte
	data [24]byte
}

func named(name string) (r request) {
	copy(r.name[:15], name)
	return r
}

// do is one ioctl; its error says which.
func (r *request) do(socket int, what string, code uintptr) error {
	if err := call(uintptr(socket), code, unsafe.Pointer(r)); err != nil {
		return errors.New(what + " of " + strings.TrimRight(string(r.name[:]), "\x00") + ": " + err.Error())
	}
	return nil
}

func setUp(socket int, name string, up bool) error {
	r := named(name)
	if err := r.do(socket, "flags", syscall.SIOCGIFFLAGS); err != nil {
		return err
	}
	flags := binary.NativeEndian.Uint16(r.data[:])
	wanted := flags &^ syscall.IFF_UP
	if up {
		wanted = flags | syscall.IFF_UP
	}
	if wanted == flags {
		return nil
	}
	binary.NativeEndian.PutUint16(r.data[:], wanted)
	return r.do(socket, "state", syscall.SIOCSIFFLAGS)
}

func setLink(socket int, name string, mac net.HardwareAddr, mtu int) error {
	if read("/sys/class/net/"+name+"/address") != mac.String() {
		if err := setUp(socket, name, false); err != nil {
			return err
		}
		r := named(name)
		binary.NativeEndian.PutUint16(r.data[:], 1) // ARPHRD_ETHER
		copy(r.data[2:], mac)
		if err := r.do(socket, "mac", syscall.SIOCSIFHWADDR); err != nil {
			return err
		}
	}
	if mtu > 0 {
		r := named(name)
		binary.NativeEndian.PutUint32(r.data[:], uint32(mtu))
		if err := r.do(socket, "mtu", syscall.SIOCSIFMTU); err != nil {
			return err
		}
	}
	return setUp(socket, name, true)
}

// inet is struct sockaddr_in.
func inet(into []byte, address [4]byte) {
	binary.NativeEndian.PutUint16(into, syscall.AF_INET)
	copy(into[4:], address[:])
}

func mask(bits int) (four [4]byte) {
	binary.BigEndian.PutUint32(four[:], uint32(0xffffffff<<(32-bits)))
	return four
}

// setAddress replaces the interface's first address, and with it the routes that came with the old one.
func setAddress(socket int, name string, address netip.Prefix) error {
	r := named(name)
	inet(r.data[:], address.Addr().As4())
	if err := r.do(socket, "address", syscall.SIOCSIFADDR); err != nil {
		return err
	}
	r = named(name)
	inet(r.data[:], mask(address.Bits()))
	return r.do(socket, "netmask", syscall.SIOCSIFNETMASK)
}

// route is struct rtentry of a 64-bit machine.
type route struct {
	_       uint64
	to      [16]byte
	gateway [16]byte
	mask    [16]byte
	flags   uint16
	_       [6]byte
	_       uint64
	_       [8]byte
	metric  int16
	_       [6]byte
	device  *byte
	_       [3]uint64
}

const (
	routeUp      = 1
	routeGateway = 2
	routeHost    = 4
)

// setGateway adds the default route; a gateway outside the interface's own network is made known first.
func setGateway(socket int, name string, own netip.Prefix, gateway *string) error {
	if gateway == nil || *gateway == "" {
		return nil
	}
	via, err := netip.ParseAddr(*gateway)
	if err != nil || !via.Is4() {
		return errors.New("gateway " + strconv.Quote(*gateway) + " is not an IPv4 address")
	}
	device, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if !own.Masked().Contains(via) {
		direct := route{flags: routeUp | routeHost, device: device}
		inet(direct.to[:], via.As4())
		inet(direct.mask[:], mask(32))
		if err := direct.add(socket); err != nil {
			return err
		}
	}
	outward := route{flags: routeUp | routeGateway, device: device}
	inet(outward.to[:], [4]byte{})
	inet(outward.mask[:], [4]byte{})
	inet(outward.gateway[:], via.As4())
	return outward.add(socket)
}

func (r *route) add(socket int) error {
	if err := call(uintptr(socket), syscall.SIOCADDRT, unsafe.Pointer(r)); err != nil && err != syscall.EEXIST {
		return errors.New("route: " + err.Error())
	}
	return nil
}

func setResolver(servers []string) error {
	if len(servers) == 0 {
		return nil
	}
	var lines strings.Builder
	for _, server := range servers {
		address, err := netip.ParseAddr(server)
		if err != nil {
			return errors.New("dns " + strconv.Quote(server) + " is not an address")
		}
		lines.WriteString("nameserver " + address.String() + "\n")
	}
	return replace("/etc/resolv.conf", []byte(lines.String()), 0o644)
}
