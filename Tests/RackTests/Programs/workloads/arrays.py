import numpy as np, hashlib
a=np.arange(2500*2500,dtype=np.float64).reshape(2500,2500)%1000; b=a.T.copy(); c=a@b
print(c[::500,::500].sum(), hashlib.md5((a+b).tobytes()).hexdigest())
from scipy import linalg, sparse
r=np.random.RandomState(1); m=r.rand(400,400); print(np.round(linalg.svdvals(m)[:5],6))
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
X=r.rand(20000,16); k=KMeans(5,n_init=1,random_state=0).fit(X); print(round(k.inertia_,4))
y=(X[:,0]>0.5).astype(int); f=RandomForestClassifier(20,random_state=0,n_jobs=2).fit(X,y); print(f.score(X,y))
