package enrich

import "container/list"

// lru is a map that forgets what was longest not asked for.
type lru[K comparable, V any] struct {
	max     int
	order   *list.List // of *slot[K, V]; front: used last
	slots   map[K]*list.Element
	dropped func(K, V) // called for what is evicted; may be nil
}

type slot[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](max int, dropped func(K, V)) *lru[K, V] {
	return &lru[K, V]{max: max, order: list.New(), slots: make(map[K]*list.Element), dropped: dropped}
}

func (l *lru[K, V]) get(key K) (V, bool) {
	e, ok := l.slots[key]
	if !ok {
		var zero V
		return zero, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*slot[K, V]).value, true
}

func (l *lru[K, V]) put(key K, value V) {
	if e, ok := l.slots[key]; ok {
		e.Value.(*slot[K, V]).value = value
		l.order.MoveToFront(e)
		return
	}
	l.slots[key] = l.order.PushFront(&slot[K, V]{key, value})
	if l.order.Len() > l.max {
		l.evictOldest()
	}
}

func (l *lru[K, V]) evictOldest() {
	if e := l.order.Back(); e != nil {
		l.remove(e.Value.(*slot[K, V]).key)
	}
}

// oldest is what evictOldest removes.
func (l *lru[K, V]) oldest() V {
	var zero V
	if e := l.order.Back(); e != nil {
		return e.Value.(*slot[K, V]).value
	}
	return zero
}

func (l *lru[K, V]) remove(key K) {
	e, ok := l.slots[key]
	if !ok {
		return
	}
	l.order.Remove(e)
	delete(l.slots, key)
	if l.dropped != nil {
		l.dropped(key, e.Value.(*slot[K, V]).value)
	}
}

func (l *lru[K, V]) len() int { return l.order.Len() }

// each visits all, the oldest first; the visitor may remove what it is given.
func (l *lru[K, V]) each(visit func(K, V)) {
	for e := l.order.Back(); e != nil; {
		previous := e.Prev()
		s := e.Value.(*slot[K, V])
		visit(s.key, s.value)
		e = previous
	}
}
