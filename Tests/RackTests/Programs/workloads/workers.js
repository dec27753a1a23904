const {Worker,isMainThread,parentPort,workerData}=require('worker_threads');const crypto=require('crypto'),zlib=require('zlib');
if(isMainThread){let out=[];let ps=[0,1,2].map(i=>new Promise(r=>{const w=new Worker(__filename,{workerData:i});w.on('message',m=>{out[i]=m});w.on('exit',()=>r())}));
 Promise.all(ps).then(()=>{console.log(out.join(' '));let m=new Map();for(let i=0;i<400000;i++)m.set('k'+i,{i,s:'v'+i});let s=0;for(const [k,v] of m)s+=v.i;console.log(s);
 const b=Buffer.alloc(8e6);for(let i=0;i<b.length;i++)b[i]=i*i;const z=zlib.gzipSync(b);console.log(z.length,crypto.createHash('sha256').update(zlib.gunzipSync(z)).digest('hex'));
 require('child_process').exec('echo child; exit 3',(e,so)=>{console.log(so.trim(),e.code)})});
}else{let a=[];for(let i=0;i<300000;i++)a.push({x:(i*7919+workerData)%100003});a.sort((p,q)=>p.x-q.x);parentPort.postMessage(a[150000].x)}
