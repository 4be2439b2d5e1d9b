package main

// The drain protocol, version 1: one order at a time, paced, with a lease. Copy this file; main.go shows its use.

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	mathrand "math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxBody    = 64 << 10
	keptEvents = 10_000
	page       = 1_000
	tick       = 20 * time.Millisecond
)

// Session is one open socket. Send and Close must not block.
type Session struct {
	Identity string
	Declared bool // it reads notices
	Resume   *Resume
	Resumed  *bool // nil where nobody asked to
	Send     func(text []byte)
	Close    func(code int, reason string)

	since               time.Time
	order               string
	told, acked, forced bool
}

// Resume is what a client presents at its reconnect.
type Resume struct {
	Token     string `json:"token"`
	ExpiresMs int64  `json:"expiresMs"`
}

// Order is what wsroll asks for. Fields that are not known are ignored.
type Order struct {
	ID            string                     `json:"id"`
	Reason        string                     `json:"reason"`
	Select        map[string]json.RawMessage `json:"select"`
	Mode          string                     `json:"mode"`
	RatePerSecond float64                    `json:"ratePerSecond"`
	LeaseSeconds  int64                      `json:"leaseSeconds"`
	DeadlineMs    *int64                     `json:"deadlineMs"`
	OnDeadline    string                     `json:"onDeadline"`
	Reconnect     struct {
		MinMs int64  `json:"minMs"`
		MaxMs *int64 `json:"maxMs"`
		Hint  struct {
			Query, Path, Header *string
		} `json:"hint"`
	} `json:"reconnect"`
	CloseCode int `json:"closeCode"`

	count    int64 // as selected; all: -1
	fraction float64
}

type running struct {
	Order
	waiting                                              []*Session
	eligible, notified, acked, closedClean, closedForced int
	cancelled                                            bool
	next, seen, leaseUntil                               time.Time
	active                                               time.Duration
}

type turn struct {
	at      time.Time
	session *Session
	code    int
	order   string
}

// Drain keeps the sessions of a process and carries out orders.
type Drain struct {
	mutex                        sync.Mutex
	token                        [32]byte
	key                          []byte
	revision                     string
	instance                     string
	sessions                     map[*Session]bool
	order                        *running
	closing                      []turn
	cancelled                    []string
	accepted, resumed, stateLost int
	closed                       map[string]int
	events                       []event
	numbered                     uint64
}

type event struct {
	N       uint64 `json:"n"`
	Kind    string `json:"kind"`
	Session string `json:"session"`
	AgoMs   int64  `json:"agoMs"`
	Order   string `json:"order,omitempty"`
	How     string `json:"how,omitempty"`
	Resumed *bool  `json:"resumed,omitempty"`
	at      time.Time
}

// NewDrain starts to move sessions as ordered. Without an identity key no events are served.
func NewDrain(token, identityKey, revision string) *Drain {
	instance := make([]byte, 6)
	_, _ = rand.Read(instance)
	d := &Drain{token: sha256.Sum256([]byte("Bearer " + strings.TrimSpace(token))), key: []byte(strings.TrimSpace(identityKey)),
		revision: revision, instance: hex.EncodeToString(instance), sessions: map[*Session]bool{}, closed: map[string]int{}}
	go func() {
		for range time.Tick(tick) {
			d.tick(time.Now())
		}
	}()
	return d
}

// Add: a socket has opened.
func (d *Drain) Add(s *Session) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	s.since = time.Now()
	d.sessions[s] = true
	d.accepted++
	if s.Resumed != nil && *s.Resumed {
		d.resumed++
	} else if s.Resumed != nil {
		d.stateLost++
	}
	d.note(event{Kind: "arrived", Resumed: s.Resumed}, s.Identity)
	if o := d.order; o != nil && !o.cancelled && o.count < 0 {
		o.eligible++
		o.waiting = append(o.waiting, s)
	}
}

// Ack: the client has understood its notice.
func (d *Drain) Ack(s *Session, id string) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.order != nil && d.order.ID == id && s.told && !s.acked {
		s.acked = true
		d.order.acked++
	}
}

// Remove: the socket is gone. The code is the one of the close frame, 1006 without one.
func (d *Drain) Remove(s *Session, code int) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if !d.sessions[s] {
		return
	}
	delete(d.sessions, s)
	d.closed[strconv.Itoa(code)]++
	if o := d.order; o != nil {
		o.waiting = slices.DeleteFunc(o.waiting, func(other *Session) bool { return other == s })
		if s.order == o.ID && s.forced {
			o.closedForced++
		} else if s.order == o.ID {
			o.closedClean++
		}
	}
	how := "left"
	switch {
	case s.order != "" && s.forced:
		how = "forced"
	case s.order != "":
		how = "moved"
	case code == 1006:
		how = "cut"
	}
	d.note(event{Kind: "released", How: how, Order: s.order}, s.Identity)
}

func (d *Drain) note(e event, identity string) {
	if len(d.key) == 0 {
		return
	}
	mac := hmac.New(sha256.New, d.key)
	mac.Write([]byte("session:" + identity))
	d.numbered++
	e.N, e.Session, e.at = d.numbered, hex.EncodeToString(mac.Sum(nil)[:8]), time.Now()
	d.events = append(d.events, e)
	if len(d.events) > keptEvents {
		d.events = d.events[1:]
	}
}

// put starts an order or renews it; false where it was cancelled before.
func (d *Drain) put(asked Order, now time.Time) bool {
	if slices.Contains(d.cancelled, asked.ID) {
		return false
	}
	leaseUntil := now.Add(time.Duration(asked.LeaseSeconds) * time.Second)
	if o := d.order; o != nil && o.ID == asked.ID {
		o.clock(now)
		o.Order, o.leaseUntil = asked, leaseUntil
		if o.next.Before(now) {
			o.next = now
		}
		return true
	}
	var waiting []*Session
	for s := range d.sessions {
		if s.order == "" {
			waiting = append(waiting, s)
		}
	}
	mathrand.Shuffle(len(waiting), func(i, j int) { waiting[i], waiting[j] = waiting[j], waiting[i] })
	count := len(waiting)
	if asked.fraction >= 0 {
		count = int(math.Ceil(float64(count) * asked.fraction))
	} else if asked.count >= 0 {
		count = int(min(int64(count), asked.count))
	}
	d.order = &running{Order: asked, waiting: waiting[:count], eligible: count, next: now, seen: now, leaseUntil: leaseUntil}
	return true
}

// clock: the deadline's time stands still once the lease is over.
func (o *running) clock(now time.Time) {
	until := now
	if o.leaseUntil.Before(now) {
		until = o.leaseUntil
	}
	o.active += max(0, until.Sub(o.seen))
	o.seen = now
}

func (o *running) over() bool {
	return o.DeadlineMs != nil && o.active >= time.Duration(*o.DeadlineMs)*time.Millisecond
}

func (d *Drain) tick(now time.Time) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	for len(d.closing) > 0 && !d.closing[0].at.After(now) { // whoever was told keeps its turn
		t := d.closing[0]
		d.closing = d.closing[1:]
		t.session.Close(t.code, t.order)
	}
	o := d.order
	if o == nil || o.cancelled {
		return
	}
	o.clock(now)
	over := o.over()
	moves := o.Mode != "leave"
	if over {
		moves = o.OnDeadline == "close"
	}
	if !moves || !now.Before(o.leaseUntil) {
		o.next = now // what was missed is not made up for
		return
	}
	if earliest := now.Add(-2 * tick); o.next.Before(earliest) {
		o.next = earliest
	}
	for len(o.waiting) > 0 && !o.next.After(now) {
		s := o.waiting[0]
		o.waiting = o.waiting[1:]
		o.next = o.next.Add(time.Duration(float64(time.Second) / o.RatePerSecond))
		lead := max(o.Reconnect.MinMs, min(*o.Reconnect.MaxMs, 2000))
		s.order, s.forced = o.ID, over
		if s.Declared && !over {
			s.told = true
			o.notified++
			s.Send(o.notice(s, lead))
		}
		d.closing = append(d.closing, turn{now.Add(time.Duration(lead) * time.Millisecond), s, o.CloseCode, o.ID})
	}
}

func (o *running) notice(s *Session, lead int64) []byte {
	reconnect := map[string]any{"afterMs": lead, "withinMs": 0, "url": nil, "query": o.Reconnect.Hint.Query}
	if path := o.Reconnect.Hint.Path; path != nil {
		reconnect["path"] = *path
	}
	if header := o.Reconnect.Hint.Header; header != nil {
		reconnect["header"] = *header
	}
	notice := map[string]any{"type": "wsroll.notice", "v": 1, "id": o.ID, "reason": o.Reason, "deadlineMs": lead,
		"reconnect": reconnect, "closeCode": o.CloseCode, "makeBeforeBreak": false}
	if s.Resume != nil {
		notice["resume"] = s.Resume
	}
	text, _ := json.Marshal(notice)
	return text
}

func (d *Drain) progress(now time.Time) any {
	o := d.order
	if o == nil {
		return nil
	}
	left := len(o.waiting)
	for s := range d.sessions {
		if s.order == o.ID {
			left++
		}
	}
	state := "active"
	switch {
	case o.cancelled:
		state = "cancelled"
	case left == 0:
		state = "done"
	case o.over() && o.OnDeadline == "wait":
		state = "deadline"
	case !now.Before(o.leaseUntil):
		state = "paused"
	}
	return map[string]any{"id": o.ID, "state": state, "eligible": o.eligible, "notified": o.notified, "acked": o.acked,
		"closedClean": o.closedClean, "closedForced": o.closedForced, "ratePerSecond": o.RatePerSecond,
		"leaseExpiresMs": max(0, o.leaseUntil.Sub(now).Milliseconds())}
}

func (d *Drain) report(now time.Time) any {
	report := map[string]any{"instance": d.instance, "revision": d.revision, "open": len(d.sessions), "accepting": true,
		"totals": map[string]any{"accepted": d.accepted, "resumed": d.resumed, "stateLost": d.stateLost, "closed": d.closed}}
	oldest := time.Duration(-1)
	for s := range d.sessions {
		oldest = max(oldest, now.Sub(s.since))
	}
	if oldest >= 0 {
		report["oldestMs"] = oldest.Milliseconds()
	}
	if d.order != nil {
		report["drain"] = d.progress(now)
	}
	return report
}

func (d *Drain) eventsAfter(after uint64, now time.Time) any {
	dropped := d.numbered - uint64(len(d.events)) // the number of the last one that is gone
	start := uint64(0)
	if after > dropped {
		start = min(after-dropped, uint64(len(d.events)))
	}
	told := slices.Clone(d.events[start:min(start+page, uint64(len(d.events)))])
	next, lost := max(after, dropped), uint64(0)
	for i := range told {
		told[i].AgoMs = now.Sub(told[i].at).Milliseconds()
		next = told[i].N
	}
	if dropped > after {
		lost = dropped - after
	}
	return map[string]any{"instance": d.instance, "next": next, "lost": lost, "events": append([]event{}, told...)}
}

var path = regexp.MustCompile(`^/wsroll/v1/(sessions|events|drain)(?:/([^/]+))?$`)

// ServeHTTP serves the drain port.
func (d *Drain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	status, answer := http.StatusBadRequest, any(map[string]string{"error": "unreadable"})
	if err == nil {
		status, answer = d.answer(r, body)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func (d *Drain) answer(r *http.Request, body []byte) (int, any) {
	refuse := func(status int, why string) (int, any) { return status, map[string]string{"error": why} }
	found := path.FindStringSubmatch(r.URL.Path)
	if found == nil || found[2] != "" && found[1] != "drain" {
		return refuse(404, "no such resource in version 1")
	}
	// Hashes have one length, so that the comparison tells nothing about the token's.
	given := sha256.Sum256([]byte(r.Header.Get("Authorization")))
	if subtle.ConstantTimeCompare(given[:], d.token[:]) != 1 {
		return refuse(401, "the token is missing or wrong")
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	now, resource, id := time.Now(), r.Method+" "+found[1], found[2]
	switch {
	case resource == "GET sessions":
		return 200, d.report(now)
	case resource == "GET events" && len(d.key) == 0:
		return refuse(404, "no identity key")
	case resource == "GET events":
		after, _ := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
		return 200, d.eventsAfter(after, now)
	case resource == "DELETE drain" && (d.order == nil || d.order.ID != id):
		return refuse(404, "no such order")
	case resource == "DELETE drain":
		d.cancel(id)
		return 200, d.progress(now)
	case resource == "PUT drain" && id == "" && len(body) > maxBody:
		return refuse(413, "an order has at most 64 KiB")
	case resource == "PUT drain" && id == "":
		order, err := parseOrder(body)
		if err != nil {
			return refuse(400, err.Error())
		}
		if !d.put(order, now) {
			return refuse(409, "this order was cancelled")
		}
		return 200, d.progress(now)
	}
	return refuse(405, "not a method of this resource")
}

func (d *Drain) cancel(id string) {
	d.order.cancelled, d.order.waiting = true, nil
	if d.cancelled = append(d.cancelled, id); len(d.cancelled) > 100 {
		d.cancelled = d.cancelled[1:]
	}
	d.closing = slices.DeleteFunc(d.closing, func(t turn) bool {
		stays := t.order == id && !t.session.told
		if stays {
			t.session.order = ""
		}
		return stays
	})
}

var orderID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,200}$`)

// parseOrder checks the whole order first: there is never a partial start.
func parseOrder(body []byte) (Order, error) {
	o := Order{Reason: "rollout", Mode: "ask", OnDeadline: "wait", CloseCode: 1012, count: -1, fraction: -1}
	if err := json.Unmarshal(body, &o); err != nil {
		return o, err
	}
	if o.Reconnect.MaxMs == nil {
		most := max(5000, o.Reconnect.MinMs)
		o.Reconnect.MaxMs = &most
	}
	var selected error
	for kind, value := range o.Select {
		switch kind {
		case "all":
		case "count":
			selected = json.Unmarshal(value, &o.count)
			selected = errors.Join(selected, unless(o.count >= 0, "select.count must not be below 0"))
		case "fraction":
			selected = json.Unmarshal(value, &o.fraction)
			selected = errors.Join(selected, unless(o.fraction >= 0 && o.fraction <= 1, "select.fraction must be 0 to 1"))
			o.count = 0 // not all
		default:
			selected = fmt.Errorf("select.%s is not known", kind)
		}
	}
	drainCode := slices.Contains([]int{1001, 1008, 1011, 1012, 1013}, o.CloseCode) || o.CloseCode >= 3000 && o.CloseCode <= 4999
	return o, errors.Join(selected,
		unless(len(o.Select) <= 1, "select must be one thing"),
		unless(orderID.MatchString(o.ID), "id must be 1 to 200 of A-Z a-z 0-9 . _ -"),
		unless(o.RatePerSecond > 0 && o.RatePerSecond <= 10_000, "ratePerSecond must be above 0 and at most 10000"),
		unless(o.LeaseSeconds >= 1, "leaseSeconds must be at least 1"),
		unless(o.DeadlineMs == nil || *o.DeadlineMs >= 0, "deadlineMs must not be below 0"),
		unless(slices.Contains([]string{"ask", "whenIdle", "leave"}, o.Mode), "mode must be ask, whenIdle or leave"),
		unless(o.OnDeadline == "wait" || o.OnDeadline == "close", "onDeadline must be wait or close"),
		unless(o.Reconnect.MinMs >= 0 && o.Reconnect.MinMs <= *o.Reconnect.MaxMs, "reconnect.minMs must not be above maxMs"),
		unless(drainCode, "closeCode must be one for a drain"))
}

func unless(holds bool, otherwise string) error {
	if holds {
		return nil
	}
	return errors.New(otherwise)
}
