package main
import ("fmt";"runtime";"sync";"sort";"hash/fnv")
type node struct{ l, r *node; v int }
func build(d int) *node { if d==0 {return &node{v:1}}; return &node{build(d-1),build(d-1),d} }
func (n *node) sum() int { if n==nil {return 0}; return n.v+n.l.sum()+n.r.sum() }
func main(){
 runtime.GOMAXPROCS(4)
 var wg sync.WaitGroup; ch:=make(chan int,16)
 keep:=build(18)
 for g:=0;g<8;g++{ wg.Add(1); go func(g int){ defer wg.Done(); t:=0; for i:=0;i<6;i++{ t+=build(14+g%3).sum() }; ch<-t }(g) }
 go func(){wg.Wait();close(ch)}()
 var r []int; for v:=range ch { r=append(r,v) }; sort.Ints(r); fmt.Println(r, keep.sum())
 m:=map[string]int{}; var mu sync.Mutex
 for g:=0;g<200;g++{ wg.Add(1); go func(g int){defer wg.Done(); for i:=0;i<500;i++{ k:=fmt.Sprintf("%d",(g*500+i)%20000); h:=fnv.New32(); h.Write([]byte(k)); mu.Lock(); m[k]+=int(h.Sum32()%100); mu.Unlock() } }(g) }
 ; for i:=0;i<5;i++ { runtime.GC() }
 func(){ ch2:=make(chan struct{}); go func(){wg.Wait();close(ch2)}(); <-ch2 }()
 s:=0; for _,v:=range m {s+=v}; fmt.Println(len(m),s)
}
