package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// The code of a drain, in turn. Nothing else is an announcement.
const ordered = 1012

type tally struct {
	sync.Mutex
	sessions    []*session
	closes      map[string]int
	announced   int
	unannounced int
	inFlight    int
	wrong       int
	connects    perSecond
	ends        perSecond
	reached     map[string]map[*session]bool
}

type session struct {
	on          string
	opened      bool
	disconnects int
}

// How many there were in the fullest second of the clock.
type perSecond struct {
	second      int64
	count, peak int
}

func (p *perSecond) note() {
	now := time.Now().Unix()
	if now != p.second {
		p.second, p.count = now, 0
	}
	p.count++
	p.peak = max(p.peak, p.count)
}

// hold opens sessions and says each second what is, and at the end what was.
func hold(args []string) error {
	flags := flag.NewFlagSet("hold", flag.ExitOnError)
	url := flags.String("url", "", "where users connect")
	address := flags.String("address", "", "dialled instead of the URL's host")
	sessions := flags.Int("sessions", 100, "how many")
	_ = flags.Parse(args)

	t := &tally{closes: map[string]int{}, reached: map[string]map[*session]bool{}}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, host string) (net.Conn, error) {
			if *address != "" {
				_, port, _ := net.SplitHostPort(host)
				host = net.JoinHostPort(*address, port)
			}
			return dialer.DialContext(ctx, network, host)
		},
	}}
	for place := range *sessions {
		s := &session{}
		t.Lock()
		t.sessions = append(t.sessions, s)
		t.Unlock()
		go t.keep(s, place, *url, client)
		time.Sleep(10 * time.Millisecond)
	}
	stop := make(chan struct{})
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if lines.Text() == "stop" {
				close(stop)
				return
			}
		}
	}()
	for tick := time.Tick(time.Second); ; {
		select {
		case <-tick:
			print(t.now())
		case <-stop:
			print(map[string]any{"summary": t.summary()})
			return nil
		}
	}
}

// keep connects again and again, with a back-off.
func (t *tally) keep(s *session, place int, url string, client *http.Client) {
	for tries := 0; ; tries++ {
		if t.once(s, place, url, client) {
			tries = 0
		}
		wait := time.Duration(min(5000, 250<<min(tries, 5))) * time.Millisecond
		time.Sleep(wait/2 + rand.N(wait))
	}
}

// once holds one socket to its end; whether it was welcomed.
func (t *tally) once(s *session, place int, url string, client *http.Client) bool {
	ctx := context.Background()
	dialing, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	socket, _, err := websocket.Dial(dialing, url, &websocket.DialOptions{
		HTTPClient:      client,
		CompressionMode: websocket.CompressionContextTakeover,
	})
	if err != nil {
		return false
	}
	defer socket.CloseNow()
	type answer struct{ Text, Version string }
	read := func() (answer, error) {
		var got answer
		_, body, err := socket.Read(ctx)
		if err == nil {
			err = json.Unmarshal(body, &got)
		}
		return got, err
	}
	hello, err := read()
	if err != nil {
		return false
	}
	t.opens(s, hello.Version)
	var said atomic.Value
	var waiting atomic.Bool
	left, leave := context.WithCancel(ctx)
	defer leave()
	go func() {
		for tick, number := time.NewTicker(time.Second), 0; ; number++ {
			select {
			case <-left.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			if waiting.CompareAndSwap(false, true) {
				text := fmt.Sprintf("%d-%d", place, number)
				said.Store(text)
				_ = socket.Write(left, websocket.MessageText, []byte(text))
			}
		}
	}()
	for {
		got, err := read()
		if err != nil {
			t.closed(s, int(websocket.CloseStatus(err)), waiting.Load())
			return true
		}
		t.check(got.Text == said.Load())
		waiting.Store(false)
	}
}

func (t *tally) opens(s *session, version string) {
	t.Lock()
	defer t.Unlock()
	if s.opened {
		t.connects.note()
	}
	s.opened, s.on = true, version
	if t.reached[version] == nil {
		t.reached[version] = map[*session]bool{}
	}
	t.reached[version][s] = true
}

func (t *tally) check(right bool) {
	t.Lock()
	defer t.Unlock()
	if !right {
		t.wrong++
	}
}

func (t *tally) closed(s *session, code int, waiting bool) {
	t.Lock()
	defer t.Unlock()
	s.on = ""
	s.disconnects++
	t.closes[strconv.Itoa(code)]++
	t.ends.note()
	if code == ordered {
		t.announced++
	} else {
		t.unannounced++
	}
	if waiting {
		t.inFlight++
	}
}

func (t *tally) now() map[string]any {
	t.Lock()
	defer t.Unlock()
	on := map[string]int{}
	open := 0
	for _, s := range t.sessions {
		if s.on != "" {
			on[s.on]++
			open++
		}
	}
	return map[string]any{"open": open, "down": len(t.sessions) - open, "revisions": on}
}

func (t *tally) summary() map[string]any {
	t.Lock()
	defer t.Unlock()
	most, down := 0, 0
	for _, s := range t.sessions {
		most = max(most, s.disconnects)
		if s.on == "" {
			down++
		}
	}
	reached := map[string]int{}
	for version, sessions := range t.reached {
		reached[version] = len(sessions)
	}
	return map[string]any{
		"sessions": len(t.sessions), "unannounced_disconnects": t.unannounced, "announced_disconnects": t.announced,
		"max_disconnects_per_session": most, "messages_lost": t.wrong, "messages_in_flight_at_close": t.inFlight,
		"state_lost": 0, "peak_connects_per_s": t.connects.peak, "peak_closes_per_s": t.ends.peak,
		"sessions_unanswered_at_end": down, "reached": reached, "close_codes": t.closes,
	}
}

func print(line any) {
	_ = json.NewEncoder(os.Stdout).Encode(line)
}
