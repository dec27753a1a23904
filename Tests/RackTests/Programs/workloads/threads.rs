use std::thread; use std::sync::{Arc,Mutex,mpsc}; use std::collections::{HashMap,BTreeMap};
fn main(){
 let m=Arc::new(Mutex::new(BTreeMap::new()));
 let (tx,rx)=mpsc::channel();
 let mut hs=vec![];
 for t in 0..8u64 { let m=m.clone(); let tx=tx.clone(); hs.push(thread::spawn(move||{
   let mut h:HashMap<u64,Vec<u64>>=HashMap::new();
   for i in 0..150000u64 { h.entry((i*2654435761+t)%20011).or_default().push(i^t); }
   let mut v:Vec<u64>=h.values().map(|v|v.iter().fold(0u64,|a,b|a.wrapping_mul(31).wrapping_add(*b))).collect(); v.sort();
   let s=v.iter().fold(0u64,|a,b|a.wrapping_mul(1000003).wrapping_add(*b));
   m.lock().unwrap().insert(t,s); tx.send(t).unwrap(); })); }
 drop(tx); let mut got:Vec<u64>=rx.iter().collect(); got.sort();
 for h in hs {h.join().unwrap();}
 println!("{:?} {:?}",got,m.lock().unwrap());
 let r=thread::spawn(||{ if true {panic!("boom")} }).join(); println!("{}",r.is_err());
}
